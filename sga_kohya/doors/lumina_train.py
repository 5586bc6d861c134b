"""Door to lumina_train.py of sd-scripts: Lumina Image 2 full fine-tune; with network_module, the network trainer."""

from sga_kohya.launch import run

if __name__ == "__main__":
    run("lumina_train.py")
