"""Door to fine_tune.py of sd-scripts: Stable Diffusion 1 and 2 full fine-tune from a metadata file; see train_db."""

from sga_kohya.launch import run

if __name__ == "__main__":
    run("fine_tune.py")
