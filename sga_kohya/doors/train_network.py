"""Door to train_network.py of sd-scripts: Stable Diffusion 1 and 2 LoRA and other adapters."""

from sga_kohya.launch import run

if __name__ == "__main__":
    run("train_network.py")
