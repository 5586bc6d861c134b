"""Door to sd3_train_network.py of sd-scripts: SD3 and SD3.5 LoRA and other adapters."""

from sga_kohya.launch import run

if __name__ == "__main__":
    run("sd3_train_network.py")
