"""Door to train_textual_inversion.py of sd-scripts: Stable Diffusion 1 and 2 textual inversion."""

from sga_kohya.launch import run

if __name__ == "__main__":
    run("train_textual_inversion.py")
