"""Write what in presets/ follows from its hand-written files: variants, dataset TOMLs, GUI JSONs.

    python tests/make_presets.py

A variant is its base with some keys changed, so that two runs differ in what they mean to compare and in nothing else.
tests/test_presets.py fails when what is shipped is not what this writes.
"""

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import toml

from sga_kohya.evaluate.plan.arms import ARMS, IN_EPOCHS
from sga_kohya.training.memory import MODELS, Load, parts, table, total

PRESETS = Path(__file__).parents[1] / "presets"
MUSUBI = PRESETS / "musubi"

Changes = dict[str, Any]
"""Keys to values; None leaves a key out, and what the base lacks is added."""

# base: what its arms are called. Each has all five, which are the base and these four.
BASES = {
    "flux_dora": "FLUX.1-dev with DoRA",
    "sdxl_locon": "Animagine XL 3.1 with LoCon",
    "sd35_dora": "Stable Diffusion 3.5 Medium with DoRA",
    "sd15_locon": "Stable Diffusion 1.5 with LoCon",
}
MUSUBI_BASES = {
    "flux2_lora": "FLUX.2 [klein] base 9B with LoRA",
    "z_image_lora": "Z-Image base with LoRA",
    "qwen_image_lora": "Qwen-Image with LoRA",
    "wan_lora": "Wan 2.1 14B (text to video) with LoRA",
}
SLICES_A_PHOTO = 3
"""What the presets reckon with: 300 photos, K = 3."""
TITLES = {
    "raw": "{model}, on the photos themselves and by the stock trainer: the paper's baseline",
    "hsd": "{model}, on slices and by the stock trainer: H-SD alone",
    "without_tuples": "{model}, without tuple-wise optimization: an ablation of Table 2",
    "without_modulation": "{model}, without scale-adaptive modulation: an ablation of Table 2",
}


def _settings(base: str, folder: Path) -> Changes:
    return toml.loads((folder / f"{base}.toml").read_text())


def _arms(bases: dict[str, str], folder: Path) -> dict[str, tuple[str, str, Changes]]:
    """The other four arms of each base: name to base, title, and what it changes."""
    found = {}
    for base, model in bases.items():
        settings = _settings(base, folder)
        raw = settings["dataset_config"].replace(".toml", "_raw.toml")
        # A photo stands for three slices, so three times the epochs show as many pictures.
        longer = {key: SLICES_A_PHOTO * settings[key] for key in IN_EPOCHS}
        changes = {
            "raw": {"dataset_config": raw, **longer, "sga": False},
            "hsd": {"sga": False},
            "without_tuples": {"sga_tuples": False},
            "without_modulation": {"sga_modulation": False},
        }
        assert {*changes, "full"} == set(ARMS)
        found |= {f"{base}_{arm}": (base, TITLES[arm].format(model=model), keys) for arm, keys in changes.items()}
    return found


LORA = {"network_args": ["algo=lora", "preset=attn-mlp"]}
# name: (base, title, what it changes)
VARIANTS: dict[str, tuple[str, str, Changes]] = {
    **_arms(BASES, PRESETS),
    "flux_lora": ("flux_dora", "FLUX.1-dev with LoRA instead of DoRA: appendix G.3", LORA),
    "flux_lora_without_modulation": (
        "flux_dora",
        "FLUX.1-dev with LoRA, without scale-adaptive modulation: the ablation of appendix G.3",
        LORA | {"sga_modulation": False},
    ),
}
MUSUBI_VARIANTS = _arms(MUSUBI_BASES, MUSUBI)


@dataclass(frozen=True)
class Cards:
    """One base on cards of 12, 16 and 24 GB. model: of training/memory.py. trained: billions in its adapter, about.

    sizes: side in pixels and batch by card. eight: cards on which the weights are in 8 bits. small: the optimizer on
    cards below 24 GB. encoders: whether those of text stay on the card. changes: for all of them.
    """

    base: str
    title: str
    model: str
    trained: float
    sizes: dict[int, tuple[int, int]]
    small: str = "AdamW8bit"
    eight: tuple[int, ...] = ()
    encoders: bool = False
    changes: Changes = field(default_factory=dict)
    checkpointing: bool = True


_OWN_LORA = {"network_module": "networks.lora_flux", "network_args": None}
CARDS = {
    "flux_lora": Cards(
        *("flux_dora", "FLUX.1-dev with sd-scripts' own LoRA (8-bit weights exclude DoRA)", "FLUX", 0.15),
        *({12: (768, 1), 16: (1024, 1), 24: (1024, 2)}, "AdamW8bit", (12, 16, 24), False, _OWN_LORA),
    ),
    "sdxl_locon": Cards(
        *("sdxl_locon", "Animagine XL 3.1 with LoCon", "SDXL", 0.25),
        *({12: (1024, 1), 16: (1024, 2), 24: (1024, 4)}, "Lion8bit", (), True),
    ),
    "sd35_dora": Cards(
        *("sd35_dora", "Stable Diffusion 3.5 Medium with DoRA", "SD3", 0.05),
        {12: (1024, 2), 16: (1024, 4), 24: (1024, 8)},
    ),
    "sd15_locon": Cards(
        *("sd15_locon", "Stable Diffusion 1.5 with LoCon", "Stable Diffusion", 0.04),
        *({12: (512, 8), 16: (768, 4), 24: (768, 8)}, "Lion8bit", (), True),
        *({"gradient_checkpointing": False}, False),  # it fits without, and is faster so
    ),
}
MUSUBI_CARDS = {
    "flux2_lora": Cards(
        *("flux2_lora", "FLUX.2 [klein] base 9B with LoRA", "FLUX.2", 0.13),
        *({12: (768, 1), 16: (1024, 1), 24: (1024, 2)}, "AdamW8bit", (12, 16, 24)),
    ),
    "z_image_lora": Cards(
        *("z_image_lora", "Z-Image base with LoRA", "Z-Image", 0.09),
        *({12: (1024, 1), 16: (1024, 2), 24: (1024, 2)}, "AdamW8bit", (12, 16)),
    ),
    "qwen_image_lora": Cards(
        *("qwen_image_lora", "Qwen-Image with LoRA", "Qwen-Image", 0.29),
        *({12: (768, 1), 16: (1024, 1), 24: (1024, 1)}, "AdamW8bit", (12, 16, 24)),
    ),
    "wan_lora": Cards(
        *("wan_lora", "Wan 2.1 14B (text to video) with LoRA", "Wan", 0.15),
        *({12: (512, 1), 16: (768, 1), 24: (768, 2)}, "AdamW8bit", (12, 16, 24)),
    ),
}
SPARE = 1.0
"""GB of a card that its screen and other programs may have."""


def card_load(cards: Cards, card: int) -> Load:
    """What trains on a card: as few blocks swapped as fit, even numbers of them."""
    (side, batch), settings = cards.sizes[card], _settings(cards.base, _folder_of(cards))
    optimizer = cards.small if card < 24 else settings["optimizer_type"]
    load = Load(batch, side, 1 if card in cards.eight else 2, cards.trained, optimizer=optimizer)
    load = replace(load, encoders=cards.encoders, checkpointing=cards.checkpointing)
    model = MODELS[cards.model]
    tried = (replace(load, swapped=count) for count in range(0, max(model.units, 1), 2))
    return next(load for load in tried if total(model, load) <= card - SPARE)


def card_changes(cards: Cards, card: int) -> Changes:
    """What a card's preset changes in its base."""
    load, settings, musubi = (
        card_load(cards, card),
        _settings(cards.base, _folder_of(cards)),
        cards in MUSUBI_CARDS.values(),
    )
    wanted: Changes = dict(cards.changes)
    if card in cards.eight:
        wanted |= {"fp8_base": True, **({"fp8_scaled": True} if musubi else {})}
    if load.swapped:
        wanted["blocks_to_swap"] = load.swapped
    wanted["optimizer_type"] = load.optimizer
    return {key: value for key, value in wanted.items() if settings.get(key) != value}


def _folder_of(cards: Cards) -> Path:
    return PRESETS if cards.base in BASES else MUSUBI


def _card(name: str, cards: Cards, card: int) -> str:
    """The text of a card's preset: its base with other settings, length and memory."""
    load, folder = card_load(cards, card), _folder_of(cards)
    title = f"{cards.title}, on a card of {card} GB: batch {load.batch} at {load.side} x {load.side}"
    text = _variant(name, cards.base, title, card_changes(cards, card), folder)
    text = re.sub(r"--resolution \d+ --batch_size \d+", f"--resolution {load.side} --batch_size {load.batch}", text)
    epochs = _settings(cards.base, folder)["max_train_epochs"]
    how_long = re.compile(r"# How long\..*?(?=^max_train_epochs)", re.MULTILINE | re.DOTALL)
    text = how_long.sub(lambda _: _how_long(load.batch, epochs), text)
    lines = [f"#   {line}" for line in table(list(parts(MODELS[cards.model], load)))]
    memory = f"# Memory, of {card} GB. Not tried on such a card: `python -m sga_kohya.doctor` knows your own numbers.\n"
    return text.replace("# SGA; these", memory + "\n".join(lines) + "\n\n# SGA; these")


def _how_long(batch: int, epochs: int) -> str:
    photos, slices = 300, 900
    steps, plain = -(-photos // batch), -(-slices // batch)
    return f"""# How long. {photos} photos with K = {SLICES_A_PHOTO} are {slices} slices.
#   with tuples     {steps} steps an epoch, each {batch} x {SLICES_A_PHOTO} = {3 * batch} slices in {SLICES_A_PHOTO} \
sub-batches of {batch}: {epochs} epochs are {epochs * steps} steps
#   without tuples  {plain} steps an epoch, each a batch of {batch}: {epochs} epochs are {epochs * plain} steps
# Both see {epochs * slices:,} slices, and both cost the same. Tuples take their sub-batches one after another: the
# memory of {batch}, the gradient of {3 * batch}. So they make a third of the steps with a batch three times as large;
# at the base's rate, which is kept here, early progress is slower for it. The usual correction for Adam and its
# kin is the rate times sqrt({SLICES_A_PHOTO}) = 1.7, or more epochs.
"""


# name: (side whose square is the largest area, batch size, the presets it is for)
DATASETS = {
    "dataset_flux": (1280, 8, "flux_dora and its arms"),
    "dataset_sdxl": (1024, 2, "sdxl_locon and its arms"),
    "dataset_sd35": (1024, 4, "sd35_dora and its arms"),
    "dataset_sd15": (512, 4, "sd15_locon and its arms"),
}


PROMPTS = {
    PRESETS / "sample_prompts.txt": "--w 1024 --h 1024 --s 20",
    PRESETS / "sample_prompts_512.txt": "--w 512 --h 512 --s 20",
    PRESETS / "sample_prompts_clips.txt": "--w 960 --h 544 --f 1 --s 20",
}
_WORDS = (
    "your subject, a detail from near by",
    "your subject, all of it from afar",
    "a portrait of an old sailor",
    "a market street at dusk",
)


def files() -> dict[Path, str]:
    """Every file that is written, with its text."""
    prompts = {path: _prompts(options) for path, options in PROMPTS.items()}
    cards = {
        _folder_of(one) / f"{name}_{card}gb.toml": _card(f"{name}_{card}gb", one, card)
        for name, one in (*CARDS.items(), *MUSUBI_CARDS.items())
        for card in one.sizes
    }
    return {**_sd_scripts(), **_musubi(), **cards, **prompts}


def _prompts(options: str) -> str:
    head = (
        "# A prompt a line, each with a seed of its own (--d), so that its pictures differ by the training alone.\n"
        "# Put the words of your captions into the first two; the others show what becomes of what you do not train.\n"
    )
    return head + "".join(f"{words} {options} --d {seed}\n" for seed, words in enumerate(_WORDS, 1))


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
    configs = {base: (PRESETS / f"{base}.toml").read_text() for base in BASES}
    configs |= {path.stem: text for path, text in texts.items() if path.stem in VARIANTS}
    return texts | {PRESETS / "gui" / f"{name}.json": _gui(toml.loads(text)) for name, text in configs.items()}


_NO_DORA = "# Rank and alpha of Table 3, without DoRA.\n"
"""In the place of what the base says of its adapter, where that is another."""


def _variant(name: str, base: str, title: str, changes: Changes, folder: Path = PRESETS) -> str:
    lines = (folder / f"{base}.toml").read_text().replace(base, name).split("\n")
    lines[0] = f"# {title}"
    added = [f"{key} = {json.dumps(value)}" for key, value in changes.items() if not _places(lines, key)]
    for key, value in changes.items():
        for place in _places(lines, key):
            was = lines[place].partition(" = ")[2]
            lines[place] = f"# {base}.toml: {key} = {was}" if value is None else f"{key} = {json.dumps(value)}"
            lines[place] += f"  # {base}.toml: {was}" if value is not None else ""
    (place,) = (i for i, line in enumerate(lines) if line.startswith("# SGA; these"))
    text = "\n".join([*lines[:place], *added, *[""] * bool(added), *lines[place:]])
    if "dora_wd=True" in (changes.get("network_args", "dora_wd=True") or ""):
        return text
    return re.sub(r"^# Table 3: DoRA,.*?(?=^network_module)", _NO_DORA, text, flags=re.MULTILINE | re.DOTALL)


def _places(lines: list[str], key: str) -> list[int]:
    """Of the line that sets a key; none where there is none."""
    found = [i for i, line in enumerate(lines) if line.startswith(f"{key} = ")]
    assert len(found) < 2
    return found


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
        elif key == "sample_at_first":
            more.append(f"--{key}")
        elif key == "sample_prompts":
            values[key] = _prompts(PROMPTS[PRESETS / value])
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
