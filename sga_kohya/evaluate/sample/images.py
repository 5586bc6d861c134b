"""Where a plan's images lie, and how a judge is shown them: blind, without metadata, all of one size."""

import io
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

from sga_kohya.errors import SgaError
from sga_kohya.evaluate.plan.plan import Cell, Dataset, Plan, Variant, pictures
from sga_kohya.evaluate.sample.checkpoints import find_runs, pick

PUT_THERE = "put it there, or correct `images` in the plan ({prompt} counts from 1)"
"""What to do about a missing image that the plan says is there already."""


def folder_of(plan: Plan, variant: Variant, dataset: Dataset) -> Path:
    """Where the sampled images of a variant go."""
    return plan.out / "images" / dataset.name / variant.name


def weights_of(plan: Plan, variant: Variant, dataset: Dataset) -> Path | None:
    """The file to sample with, None for the base model. Raises SgaError when it is not there."""
    if variant.run:
        folder = plan.folder / os.path.expanduser(variant.path("run", dataset.name))
        hours = variant.hours(dataset)
        run = find_runs(folder, variant.output_name.replace("{dataset}", dataset.name))
        return pick(run, hours, plan.tolerance_minutes).file
    if not variant.weights:
        return None
    path = plan.folder / os.path.expanduser(variant.path("weights", dataset.name))
    if not path.is_file():
        raise SgaError(f"variant {variant.name}: weights {path} do not exist")
    return path


def image_files(plan: Plan, variant: Variant, dataset: Dataset) -> dict[Cell, Path]:
    """Where each image of a variant is or will be. Raises SgaError when a folder holds another number of images."""
    cells = list(plan.cells(variant, dataset))
    if not variant.images:
        return {cell: folder_of(plan, variant, dataset) / cell.file for cell in cells}
    template = os.path.expanduser(variant.path("images", dataset.name))
    if "{prompt" in template or "{seed" in template:
        if not ("{prompt" in template and "{seed" in template):
            raise SgaError(f"variant {variant.name}: images = {template!r}: a path needs both {{prompt}} and {{seed}}")
        return {cell: plan.folder / fill(template, cell) for cell in cells}
    found = pictures(plan.folder / template)
    if len(found) != len(cells):
        raise SgaError(
            f"variant {variant.name}: {plan.folder / template} holds {len(found)} images, not "
            f"{len(dataset.prompts)} prompts x {len(plan.seeds)} seeds = {len(cells)}; they are taken by "
            "name, seeds inside prompts; or write a path with {prompt} and {seed}"
        )
    return dict(zip(cells, found, strict=True))


def fill(template: str, cell: Cell) -> str:
    """{prompt} counts from 1, and both may have a width, such as {prompt:02d}."""
    try:
        return template.format(prompt=cell.prompt + 1, seed=cell.seed)
    except (KeyError, IndexError, ValueError) as error:
        raise SgaError(f"images = {template!r}: use {{dataset}}, {{prompt}} and {{seed}} only ({error!r})") from None


def missing_images(plan: Plan, variant: Variant, dataset: Dataset) -> list[Cell]:
    return [cell for cell, path in image_files(plan, variant, dataset).items() if not path.is_file()]


def all_images(plan: Plan) -> dict[Cell, Path]:
    """Every image of the plan. Raises SgaError that counts those not there."""
    files: dict[Cell, Path] = {}
    for variant in plan.variants:
        for dataset in plan.datasets:
            files |= image_files(plan, variant, dataset)
    missing = {cell: path for cell, path in files.items() if not path.is_file()}
    if missing:
        cell, path = next(iter(missing.items()))
        given = {variant.name: variant.images for variant in plan.variants}[cell.variant]
        remedy = PUT_THERE if given else "run `python -m sga_kohya.evaluate run` with this plan"
        raise SgaError(f"{len(missing)} of {len(files)} images are not there, the first is {path}: {remedy}")
    return files


def load(path: Path) -> Image.Image:
    """RGB pixels as a viewer shows them, transparency on white, without metadata."""
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert("RGB")
    except Exception as error:  # Pillow's readers raise nearly anything for damaged files: SyntaxError, struct.error, …
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SgaError(f"{path}: cannot be read as an image: {reason}") from None
    return Image.frombytes("RGB", image.size, image.tobytes())


def same_size(images: Sequence[Image.Image], size: int) -> list[Image.Image]:
    """The images with the longer side at `size` pixels, those of other shapes on a grey ground of the largest's."""
    fitted = [ImageOps.contain(image, (size, size), Image.Resampling.LANCZOS) for image in images]
    width, height = max(image.width for image in fitted), max(image.height for image in fitted)
    return [
        image if image.size == (width, height) else ImageOps.pad(image, (width, height), color=(128, 128, 128))
        for image in fitted
    ]


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)  # three times as fast, a tenth larger
    return buffer.getvalue()
