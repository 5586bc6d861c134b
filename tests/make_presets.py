"""Write what in presets/ follows from its hand-written files: variants, dataset TOMLs, GUI JSONs.

    python tests/make_presets.py

A variant is its base with some keys changed, so that two runs differ in what they mean to compare and in nothing else.
tests/test_presets.py fails when what is shipped is not what this writes.
"""

import json
from pathlib import Path
from typing import Any

import toml

PRESETS = Path(__file__).parents[1] / "presets"

OFF = {"sga": False}
WITHOUT = {"without_tuples": {"sga_tuples": False}, "without_modulation": {"sga_modulation": False}}
LORA = {"network_args": ["algo=lora", "preset=attn-mlp"]}
# name: (base, title, what it changes)
VARIANTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "flux_dora_baseline": ("flux_dora", "FLUX.1-dev with DoRA, stock sd-scripts: the paper's baseline", OFF),
    "flux_dora_without_tuples": (
        "flux_dora",
        "FLUX.1-dev with DoRA, without tuple-wise optimization: an ablation of Table 2",
        WITHOUT["without_tuples"],
    ),
    "flux_dora_without_modulation": (
        "flux_dora",
        "FLUX.1-dev with DoRA, without scale-adaptive modulation: an ablation of Table 2",
        WITHOUT["without_modulation"],
    ),
    "flux_lora": ("flux_dora", "FLUX.1-dev with LoRA instead of DoRA: appendix G.3", LORA),
    "flux_lora_without_modulation": (
        "flux_dora",
        "FLUX.1-dev with LoRA, without scale-adaptive modulation: the ablation of appendix G.3",
        LORA | WITHOUT["without_modulation"],
    ),
    "sdxl_locon_baseline": ("sdxl_locon", "Animagine XL 3.1 with LoCon, stock sd-scripts: the paper's baseline", OFF),
    "sdxl_locon_without_tuples": (
        "sdxl_locon",
        "Animagine XL 3.1 with LoCon, without tuple-wise optimization: an ablation of Table 2",
        WITHOUT["without_tuples"],
    ),
    "sdxl_locon_without_modulation": (
        "sdxl_locon",
        "Animagine XL 3.1 with LoCon, without scale-adaptive modulation (Min-SNR): an ablation of Table 2",
        WITHOUT["without_modulation"],
    ),
    "sd35_dora_baseline": ("sd35_dora", "Stable Diffusion 3.5 Medium with DoRA, stock sd-scripts: the baseline", OFF),
    "sd15_locon_baseline": ("sd15_locon", "Stable Diffusion 1.5 with LoCon, stock sd-scripts: the baseline", OFF),
}
MUSUBI = PRESETS / "musubi"
MUSUBI_VARIANTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    f"{base}_baseline": (base, f"{model} with LoRA, stock musubi-tuner: the baseline", OFF)
    for base, model in {
        "flux2_lora": "FLUX.2 [klein] base 9B",
        "z_image_lora": "Z-Image base",
        "qwen_image_lora": "Qwen-Image",
        "wan_lora": "Wan 2.1 14B (text to video)",
    }.items()
}
# name: (side whose square is the largest area, batch size, the presets it is for)
DATASETS = {
    "dataset_flux": (1280, 8, "flux_dora and its variants"),
    "dataset_sdxl": (1024, 2, "sdxl_locon and its variants"),
    "dataset_sd35": (1024, 4, "sd35_dora and its baseline"),
    "dataset_sd15": (512, 4, "sd15_locon and its baseline"),
}


def files() -> dict[Path, str]:
    """Every file that is written, with its text."""
    return {**_sd_scripts(), **_musubi()}


def _musubi() -> dict[Path, str]:
    texts = {MUSUBI / f"{name}.toml": _variant(name, *how, MUSUBI) for name, how in MUSUBI_VARIANTS.items()}
    levels = ("macro", "meso", "micro")
    images = [_musubi_images(level) for level in levels]
    datasets = {
        "dataset_musubi": ("Slices of your own", images),
        "dataset_musubi_clips": (
            "Clips and slices of your own",
            [_MUSUBI_CLIPS, *(table.replace("OUT/", "DATA/") for table in images[1:])],
        ),
    }
    return texts | {
        MUSUBI / f"{name}.toml": _MUSUBI_HEAD.format(title=title) + "".join(tables)
        for name, (title, tables) in datasets.items()
    }


_MUSUBI_HEAD = """# {title}, for musubi-tuner
#
# `python -m sga_kohya.hsd` writes such a file by itself. Siblings, the slices of one photo, have the same file name in
# the folders, and the same num_repeats. Each granularity is a dataset of its own with a folder of caches of its own; a
# folder's name says the granularity, because musubi-tuner knows no key for it. Instead of folders, a JSONL file may
# name it in each row: {{"image_path": "a.png", "caption": "x", "granularity": "micro", "group": "a"}}.

[general]
batch_size = 4  # images or clips in a sub-batch, and groups in a tuple step: 3 x 4 slices where K = 3
caption_extension = ".txt"
"""
_MUSUBI_CLIPS = """
# Clips of one size, which is that of the resolution. No enable_bucket here: clips are cached as if it were not there.
[[datasets]]
video_directory = "DATA/1_macro"
cache_directory = "DATA/cache_musubi/1_macro"
resolution = [960, 544]
target_frames = [41]
frame_extraction = "head"
source_fps = 30.0
"""


def _musubi_images(level: str) -> str:
    return f"""
[[datasets]]
image_directory = "OUT/1_{level}"
cache_directory = "OUT/cache_musubi/1_{level}"
num_repeats = 1
# Images whose sides are multiples of 16 and whose area is no larger are not resized.
resolution = [1280, 1280]
enable_bucket = true
bucket_no_upscale = true
"""


def _sd_scripts() -> dict[Path, str]:
    texts = {PRESETS / f"{name}.toml": _variant(name, *how) for name, how in VARIANTS.items()}
    texts |= {PRESETS / f"{name}.toml": _dataset(*how) for name, how in DATASETS.items()}
    configs = {path.stem: path.read_text() for path in PRESETS.glob("*.toml") if not path.stem.startswith("dataset")}
    configs |= {path.stem: text for path, text in texts.items() if path.stem in VARIANTS}
    return texts | {PRESETS / "gui" / f"{name}.json": _gui(toml.loads(text)) for name, text in configs.items()}


def _variant(name: str, base: str, title: str, changes: dict[str, Any], folder: Path = PRESETS) -> str:
    lines = (folder / f"{base}.toml").read_text().replace(base, name).split("\n")
    lines[0] = f"# {title}"
    for key, value in changes.items():
        (place,) = (i for i, line in enumerate(lines) if line.startswith(f"{key} = "))
        lines[place] = f"{key} = {json.dumps(value)}  # {base}.toml: {lines[place].partition(' = ')[2]}"
    return "\n".join(lines)


def _dataset(side: int, batch_size: int, presets: str) -> str:
    head = f"""# Slices of your own, for {presets}
#
# `python -m sga_kohya.hsd` writes such a file by itself. Siblings, the slices of one photo, have the same file name in
# the three folders, and the same num_repeats.

[[datasets]]
resolution = {side}
batch_size = {batch_size}  # images in a sub-batch, and groups in a tuple step: 3 x {batch_size} slices where K = 3
enable_bucket = true
bucket_no_upscale = true
bucket_reso_steps = 64
min_bucket_reso = 256
max_bucket_reso = {2 * side}
"""
    levels = ("macro", "meso", "micro")
    return head + "".join(
        f"""
[[datasets.subsets]]
image_dir = "OUT/1_{level}"
num_repeats = 1
caption_extension = ".txt"

# a table of its own: data loader workers cannot pickle an inline one
[datasets.subsets.custom_attributes]
granularity = "{level}"
"""
        for level in levels
    )


# Keys of kohya_ss v26 (its LoRA tab) that differ from sd-scripts' names, by family where they differ there as well.
_GUI_NAMES = {"optimizer_type": "optimizer"}
_GUI_FAMILY = {
    "flux": {key: f"flux1_{key}" for key in ("cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk")},
    "sdxl": {"no_half_vae": "sdxl_no_half_vae"},
    "sd3": {
        **{key: f"sd3_{key}" for key in ("cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk")},
        **{key: f"sd3_{key}" for key in ("clip_l", "t5xxl")},
    },
    "sd": {},
}
_GUI_LACKS = ("training_shift",)
# What decides between the tabs' models, and numbers whose defaults in the GUI would interfere.
_GUI_FIXED = {
    "LoRA_type": "LyCORIS/LoCon",
    "model_list": "custom",
    "v2": False,
    "v_parameterization": False,
    "train_data_dir": "",
    "enable_bucket": True,
    "max_train_steps": 0,
    "lr_warmup": 0,
    "lr_warmup_steps": 0,
    "xformers": "sdpa",
    "dora_wd": False,
    "conv_dim": 1,
    "conv_alpha": 1,
    "extra_accelerate_launch_args": "-m sga_kohya.launch",
}


def _gui(options: dict[str, Any]) -> str:
    """The same settings as a configuration of the kohya_ss GUI; what it has no field for is an additional parameter."""
    family = next(
        (name for key, name in (("ae", "flux"), ("clip_g", "sd3"), ("no_half_vae", "sdxl")) if key in options), "sd"
    )
    values = {
        **_GUI_FIXED,
        "flux1_checkbox": family == "flux",
        "sdxl": family == "sdxl",
        "sd3_checkbox": family == "sd3",
    }
    arguments = dict(word.split("=") for word in options.pop("network_args"))
    if options.pop("network_module") == "networks.lora":
        values |= {"LoRA_type": "Kohya LoCon"}
    else:
        values |= {"LyCORIS_preset": arguments["preset"], "dora_wd": "dora_wd" in arguments}
    values |= {key: int(arguments[key]) for key in ("conv_dim", "conv_alpha") if key in arguments}
    del options["sdpa"]
    more = []
    for key, value in options.items():
        if key.startswith("sga") or key in _GUI_LACKS:
            more.append(f"--{key}={json.dumps(value) if isinstance(value, bool) else value}")
        elif key == "network_train_unet_only":
            # the GUI derives it from the two rates
            values |= {"text_encoder_lr": 0, "t5xxl_lr": 0, "unet_lr": options["learning_rate"]}
        elif key == "text_encoder_lr":
            values[key] = value[0]
        elif key == "noise_offset":
            values |= {key: value, "noise_offset_type": "Original"}
        else:
            values[_GUI_FAMILY[family].get(key) or _GUI_NAMES.get(key) or key] = value
    # separated by spaces, because the GUI splits there and knows no quotes
    values["additional_parameters"] = " ".join(more)
    return json.dumps(dict(sorted(values.items())), indent=2) + "\n"


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text)
        print(path.relative_to(PRESETS.parent))
