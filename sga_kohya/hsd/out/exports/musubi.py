"""dataset_musubi.toml: the exported folders as musubi-tuner reads them, and where it keeps its caches of them.

It trains on cache files alone and wants a folder of them for each dataset, so each level is a dataset of its own. The
granularity of a slice is that of the manifest, which the trainer finds beside the images.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path

from sga_kohya.hsd.out.exports.export import HEADER, Caches, Clips, Dataset, Export, Level, quoted
from sga_kohya.kit.cli import shell_word
from sga_kohya.kit.sealed import sealed

CACHE = "cache_musubi"
"""Folder of the caches, with one of each level's folder in it."""
NO_MASKS = "# musubi-tuner (v0.2.15 to v0.3.4) has no masked loss: all of each picture counts.\n"
CLIPS_COMMENT = """\
# Clips: a data set for each size and length, which is that of its files, frame by frame: source_fps would drop some.
# Models of images alone refuse them: for those, cut with --clips off.
"""
_LATENTS = re.compile(r"(.+?)(?:_\d{5}-\d{3,}(?:-\d+)?)?_\d{4,}x\d{4,}_[^_]+\.safetensors")
"""Of an image; of a clip with its first frame and their number, and the section where there are several."""
_TEXT = re.compile(r"(.+)_[^_]+_te\.safetensors")


def dataset_musubi(dataset: Dataset) -> str:
    """Levels that have no slices are left out, with a comment."""
    return sealed(HEADER, "\n".join(_datasets(dataset)))


def _datasets(dataset: Dataset) -> Iterator[str]:
    yield _general(dataset)
    # Where there are clips alone, no level of photos is missed.
    yield from (_level(level, dataset.out) for level in dataset.levels if dataset.present)
    if dataset.clips:
        yield CLIPS_COMMENT
    yield from (_clips(clips, dataset.out) for clips in dataset.clips)


def caches_by_stem(out: Path) -> Caches:
    """Of all models: latents, and text encoders' outputs."""
    found: dict[str, list[Path]] = {}
    for file in sorted((out / CACHE).glob("*/*.safetensors")):
        match = _TEXT.fullmatch(file.name) or _LATENTS.fullmatch(file.name)
        if match:
            found.setdefault(f"{file.parent.name}/{match.group(1)}", []).append(file)
    return found


def _general(dataset: Dataset) -> str:
    side = math.isqrt(max(width * height for width, height in dataset.targets) - 1) + 1
    return f"""
[general]
# No slice has a larger area, and every side is a multiple of 64: nothing is resized or cropped again.
resolution = {[side, side]}
enable_bucket = true
bucket_no_upscale = true
batch_size = {dataset.batch_size}
caption_extension = ".txt"
{_masks(dataset)}"""


def _masks(dataset: Dataset) -> str:
    return NO_MASKS if any(level.alpha or level.masks for level in dataset.levels) else ""


def _level(level: Level, out: Path) -> str:
    if not level.sizes:
        return f"# No {level.name} slices.\n"
    return f"""[[datasets]]
image_directory = {quoted(level.folder)}
cache_directory = {quoted(out / CACHE / level.folder.name)}
num_repeats = {level.repeats}
"""


def _clips(clips: Clips, out: Path) -> str:
    return f"""[[datasets]]
video_directory = {quoted(clips.folder)}
cache_directory = {quoted(out / CACHE / clips.folder.name)}
resolution = {list(clips.size)}
target_frames = [{clips.frames}]
frame_extraction = "head"
enable_bucket = false
bucket_no_upscale = false
num_repeats = {clips.repeats}
"""


def _use(file: Path, masked: bool) -> list[str]:
    dataset = f"--dataset_config {shell_word(file)}"
    cache, model = "python src/musubi_tuner/flux_2_cache", "--model_version klein-base-9b"
    return [
        f"{cache}_latents.py {model} --vae ae.safetensors {dataset}",
        f"{cache}_text_encoder_outputs.py {model} --text_encoder qwen3.safetensors {dataset}",
        f"accelerate launch -m sga_kohya.musubi flux_2_train_network --config_file your.toml {dataset}",
    ]


def _use_clips(file: Path) -> list[str]:
    dataset = f"--dataset_config {shell_word(file)}"
    cache = "python src/musubi_tuner/wan_cache"
    return [
        f"{cache}_latents.py --vae wan_2.1_vae.safetensors {dataset}",
        f"{cache}_text_encoder_outputs.py --t5 models_t5_umt5-xxl-enc-bf16.pth {dataset}",
        f"accelerate launch -m sga_kohya.musubi wan_train_network --task t2v-14B --config_file your.toml {dataset}",
    ]


MUSUBI = Export(
    name="musubi",
    trainer="kohya-ss musubi-tuner, with this package; for instance FLUX.2, in its folder",
    file="dataset_musubi.toml",
    write=dataset_musubi,
    use=_use,
    gets="all of SGA",
    caches=caches_by_stem,
    cache_folder=CACHE,
    always=True,
    use_clips=_use_clips,
    trainer_of_clips="kohya-ss musubi-tuner, with this package; for instance Wan 2.1, in its folder",
)
