"""Door to flux_train.py of sd-scripts: FLUX.1 full fine-tune; with network_module, the network trainer."""

from sga_kohya.launch import run

if __name__ == "__main__":
    run("flux_train.py")
