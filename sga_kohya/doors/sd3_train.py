"""Door to sd3_train.py of sd-scripts: SD3 and SD3.5 full fine-tune; with network_module, the network trainer."""

from sga_kohya.launch import run

if __name__ == "__main__":
    run("sd3_train.py")
