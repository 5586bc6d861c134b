"""Door to sdxl_train_textual_inversion.py of sd-scripts: SDXL textual inversion."""

from sga_kohya.launch import run

if __name__ == "__main__":
    run("sdxl_train_textual_inversion.py")
