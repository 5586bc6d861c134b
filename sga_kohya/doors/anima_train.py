"""Door to anima_train.py of sd-scripts: Anima full fine-tune; with network_module, the network trainer."""

from sga_kohya.launch import run

if __name__ == "__main__":
    run("anima_train.py")
