"""Door to sdxl_train.py of sd-scripts: SDXL full fine-tune; with network_module, the network trainer."""

from sga_kohya.launch import run

if __name__ == "__main__":
    run("sdxl_train.py")
