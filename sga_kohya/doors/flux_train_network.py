"""Door to flux_train_network.py of sd-scripts: FLUX.1 and Chroma LoRA, DoRA and other adapters."""

from sga_kohya.launch import run

if __name__ == "__main__":
    run("flux_train_network.py")
