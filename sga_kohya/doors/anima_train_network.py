"""Door to anima_train_network.py of sd-scripts: Anima LoRA and other adapters."""

from sga_kohya.launch import run

if __name__ == "__main__":
    run("anima_train_network.py")
