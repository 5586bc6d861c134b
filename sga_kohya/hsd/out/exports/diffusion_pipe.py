"""dataset_diffusion_pipe.toml: the exported folders as diffusion-pipe reads them."""

from collections import Counter
from pathlib import Path

from sga_kohya.hsd.cut.geometry import Size
from sga_kohya.hsd.out.exports.export import HEADER, Dataset, Export, Level, quoted
from sga_kohya.kit.sealed import sealed

_DIGITS = 3
"""To which diffusion-pipe rounds aspect ratios before it tells them apart."""


def dataset_toml(dataset: Dataset) -> str:
    return sealed(HEADER, "\n".join(["", *map(_directory, dataset.present)]))


def _directory(level: Level) -> str:
    buckets = "".join(f"    [{width}, {height}, 1],\n" for width, height in one_size_an_aspect(level.sizes))
    return f"""[[directory]]
path = {quoted(level.folder)}
num_repeats = {level.repeats}
{_masks(level)}# Width, height, frames. One size an aspect ratio, tall to wide: diffusion-pipe finds them by place.
size_buckets = [
{buckets}]
"""


def _masks(level: Level) -> str:
    if level.masks:
        return f"mask_path = {quoted(level.masks)}\n"
    return (
        "# diffusion-pipe takes no mask from a picture's transparency: all of each slice counts.\n"
        if level.alpha
        else ""
    )


def one_size_an_aspect(sizes: Counter[Size]) -> list[Size]:
    """The most common size of each aspect ratio, by aspect ratio."""
    chosen: dict[float, Size] = {}
    for (width, height), _ in sizes.most_common():
        chosen.setdefault(round(width / height, _DIGITS), (width, height))
    return [chosen[aspect] for aspect in sorted(chosen)]


def _use(file: Path, masked: bool) -> list[str]:
    return [f"dataset = {quoted(file)} in its TOML; after cutting again, start it once with --regenerate_cache"]


DIFFUSION_PIPE = Export(
    name="diffusion-pipe",
    trainer="diffusion-pipe",
    file="dataset_diffusion_pipe.toml",
    write=dataset_toml,
    use=_use,
    gets="the slices at their own sizes, where a level has one size an aspect ratio; others are resized to that",
    loses="noise levels by granularity, tuples and Eq. 6",
)
