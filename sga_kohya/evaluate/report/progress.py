"""The progress grid: the sample images of trainings, prompts down, steps across, each training a block.

    python -m sga_kohya.evaluate grid RUN…

Both hosts name them NAME_WHEN_PROMPT_TIME[_SEED], where WHEN is e and an epoch, or a step; musubi-tuner adds a frame's
number to images and writes clips as .mp4.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from sga_kohya.errors import SgaError
from sga_kohya.evaluate.sample.images import load
from sga_kohya.kit.extras import library
from sga_kohya.kit.files import whole_file, write_whole
from sga_kohya.kit.page import data_uri, render
from sga_kohya.kit.pictures import is_picture
from sga_kohya.kit.text import lines_of, read_text, safe

ACROSS = 12
"""Columns of the picture, at most; the page has them all."""
_NAME = re.compile(
    r"(?:(?P<name>.+)_)?(?P<when>e?\d{6,})_(?P<prompt>\d{2,})_(?P<time>\d{14})(?:_-?\d+)?(?:_\d{3})?(?P<suffix>\.\w+)"
)
_CLIP = ".mp4"
_GAP, _LETTERS = 6, 15


@dataclass(frozen=True)
class Sample:
    """when: as in the file's name. prompt: counts from 0. time: when it was made, as digits."""

    path: Path
    when: str
    prompt: int
    time: str


@dataclass
class Block:
    """The samples of one training. moments: what `when` says, in the order in which they were made."""

    label: str
    samples: dict[tuple[str, int], Sample] = field(default_factory=dict)

    def add(self, sample: Sample) -> None:
        """Of one moment and prompt the latest counts: a run that was begun again makes them again."""
        key = sample.when, sample.prompt
        if key not in self.samples or self.samples[key].time < sample.time:
            self.samples[key] = sample

    @property
    def moments(self) -> list[str]:
        times: dict[str, str] = {}
        for sample in self.samples.values():
            times[sample.when] = min(times.get(sample.when, sample.time), sample.time)
        return sorted(times, key=lambda when: (times[when], when.removeprefix("e")))


def write_grid(runs: Sequence[Path], out: Path, size: int, prompts: Path | None = None) -> tuple[Path, Path]:
    """Write grid.png and grid.html into `out` and return their paths.

    runs: output folders of trainings, or the folders of their samples. size: pixels of a picture's longer side.
    prompts: the file of sample prompts, whose words then stand beside the rows. Raises SgaError where a run has none.
    """
    if size < 16:
        raise SgaError(f"--size {size}: write 16 or more pixels")
    blocks = [block for run in runs for block in find_blocks(run)]
    rows = sorted({prompt for block in blocks for _, prompt in block.samples})
    labels = _words_of(prompts, rows)
    pictures = {
        sample.path: ImageOps.contain(picture_of(sample.path), (size, size))
        for block in blocks
        for sample in block.samples.values()
    }
    out.mkdir(parents=True, exist_ok=True)
    with whole_file(out / "grid.png", keep_suffix=True) as part:
        _draw(blocks, rows, labels, pictures, size).save(part)
    write_whole(out / "grid.html", _page(blocks, rows, labels, pictures))
    return out / "grid.png", out / "grid.html"


def find_blocks(run: Path) -> list[Block]:
    """The trainings that have samples in a folder, by their names. Raises SgaError where there are none."""
    folder = run / "sample" if (run / "sample").is_dir() else run
    if not folder.is_dir():
        raise SgaError(f"{run}: there is no such folder; name the output_dir of a training")
    blocks: dict[str, Block] = {}
    for path in sorted(folder.rglob("*")):
        match = _NAME.fullmatch(path.name)
        if match and (is_picture(path) or match["suffix"] == _CLIP):
            label = match["name"] or run.resolve().name
            block = blocks.setdefault(label, Block(label))
            block.add(Sample(path, match["when"], int(match["prompt"]), match["time"]))
    if not blocks:
        raise SgaError(
            f"{folder}: no sample images of a training; set sample_prompts and sample_every_n_epochs, as the presets do"
        )
    return list(blocks.values())


def picture_of(path: Path) -> Image.Image:
    """RGB; of a clip its middle frame. Raises SgaError where it cannot be read."""
    if path.suffix != _CLIP:
        return load(path)
    video = library("cv2", "hsd", "a picture of a clip").VideoCapture(str(path))
    count = int(video.get(7))  # CAP_PROP_FRAME_COUNT
    video.set(1, count // 2)  # CAP_PROP_POS_FRAMES
    there, pixels = video.read()
    video.release()
    if not there:
        raise SgaError(f"{path}: cannot be read as a clip")
    return Image.fromarray(pixels[:, :, ::-1])


def in_words(when: str) -> str:
    return f"epoch {int(when[1:])}" if when.startswith("e") else f"step {int(when)}"


def evenly(items: Sequence[str], count: int) -> list[str]:
    """At most `count` of them, from the first to the last."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def _words_of(prompts: Path | None, rows: Sequence[int]) -> list[str]:
    """What stands beside each row: the prompt without its options, or its number."""
    lines = [] if prompts is None else [line for line in lines_of(read_text(prompts)) if not line.startswith("#")]
    return [safe(lines[row].split(" --")[0]) if row < len(lines) else f"prompt {row + 1}" for row in rows]


def _draw(
    blocks: Sequence[Block], rows: Sequence[int], labels: Sequence[str], pictures: dict[Path, Image.Image], size: int
) -> Image.Image:
    """Blocks one below the other; a line of words above each block and each row."""
    line = _LETTERS + 2 * _GAP
    columns = {block.label: evenly(block.moments, ACROSS) for block in blocks}
    widest = max(map(len, columns.values()))
    height = len(blocks) * (2 * line + len(rows) * (size + line))
    sheet = Image.new("RGB", (widest * (size + _GAP) + _GAP, height + _GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_LETTERS)
    top = _GAP
    for block in blocks:
        pen.text((_GAP, top), _fits(block.label, sheet.width, pen, font), "black", font)
        top += line
        for place, when in enumerate(columns[block.label]):
            pen.text((_GAP + place * (size + _GAP), top), in_words(when), "dimgrey", font)
        top += line
        for row, label in zip(rows, labels, strict=True):
            pen.text((_GAP, top), _fits(label, sheet.width, pen, font), "dimgrey", font)
            for place, when in enumerate(columns[block.label]):
                if sample := block.samples.get((when, row)):
                    sheet.paste(pictures[sample.path], (_GAP + place * (size + _GAP), top + line - _GAP))
            top += size + line
    return sheet


def _fits(text: str, width: int, pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text, or its beginning with dots. What the font lacks is drawn as boxes."""
    while len(text) > 1 and pen.textlength(text, font) > width - 2 * _GAP:
        text = text[:-2].rstrip() + "…"
    return text


def _page(
    blocks: Sequence[Block], rows: Sequence[int], labels: Sequence[str], pictures: dict[Path, Image.Image]
) -> str:
    shown = [
        {
            "label": safe(block.label),
            "moments": [in_words(when) for when in block.moments],
            "rows": [list(_addresses(block, row, pictures)) for row in rows],
        }
        for block in blocks
    ]
    return render(__package__, "progress.html", blocks=shown, labels=labels)


def _addresses(block: Block, row: int, pictures: dict[Path, Image.Image]) -> Iterator[str]:
    for when in block.moments:
        sample = block.samples.get((when, row))
        yield data_uri(pictures[sample.path], "WEBP", quality=85) if sample else ""
