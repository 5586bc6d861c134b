"""Door to lumina_train_network.py of sd-scripts: Lumina Image 2 LoRA and other adapters."""

from sga_kohya.launch import run

if __name__ == "__main__":
    run("lumina_train_network.py")
