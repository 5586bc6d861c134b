"""Door to sdxl_train_network.py of sd-scripts: SDXL LoRA, LoCon and other adapters."""

from sga_kohya.launch import run

if __name__ == "__main__":
    run("sdxl_train_network.py")
