"""Door to hunyuan_image_train_network.py of sd-scripts: HunyuanImage-2.1 LoRA and other adapters."""

from sga_kohya.launch import run

if __name__ == "__main__":
    run("hunyuan_image_train_network.py")
