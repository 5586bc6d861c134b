"""Door to train_db.py of sd-scripts: Stable Diffusion 1/2 full fine-tune; with network_module, the network trainer."""

from sga_kohya.launch import run

if __name__ == "__main__":
    run("train_db.py")
