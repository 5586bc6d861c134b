"""A local diffusers folder as a stack: its network, VAE and scheduler now, its text encoders when a caption is met."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline

from sga_kohya.errors import SgaError
from sga_kohya.kit.cli import one_line
from sga_kohya.kit.hints import closest
from sga_kohya.reference.denoiser import Denoiser
from sga_kohya.reference.families import FAMILIES, family_of, trained_as
from sga_kohya.reference.family import Family
from sga_kohya.reference.folders import here, need_diffusers, read_part, read_pipeline
from sga_kohya.reference.latents import Codec, PooledPixels, VaeCodec, codec_of
from sga_kohya.reference.levels import ddim, euler
from sga_kohya.reference.stack import Stack
from sga_kohya.reference.text import HashedWords, PipelineText, TextEncoder

NETWORKS = {"dit": "transformer", "unet": "unet"}
"""Kind of network -> the pipeline's name for it."""

logger = logging.getLogger(__name__)


def load(
    arch: str,
    folder: Path,
    schedule: dict[str, Any],
    vae: VaeCodec | None,
    pool: int,
    dtype: torch.dtype = torch.float32,
) -> Stack:
    """A local diffusers folder, never the network. Raises SgaError if it is none that can be trained.

    vae: in place of the folder's own. pool: of averaged pixels, where there is none at all. dtype: of all weights.
    """
    family, what, name = family_in(arch, folder), f"--model {folder}", NETWORKS[arch]
    parts = _parts(folder, {name, "scheduler"} | ({"vae"} if vae is None else set()))
    with_text = _has_text(parts, family, what)
    codec = vae or (codec_of(_part(folder, parts, "vae", dtype), what) if parts.get("vae") else PooledPixels(pool))
    _must_fit(codec, family.channels(read_part(folder, name)), what)
    scheduler, model = _part(folder, parts, "scheduler"), _part(folder, parts, name, dtype)
    given = {name: model, "scheduler": scheduler, "vae": codec.vae if isinstance(codec, VaeCodec) else None}
    text: TextEncoder = (
        PipelineText(lambda: _pipeline(folder, parts, given, dtype), family.encode)
        if with_text
        else HashedWords(*family.text_widths(model.config))
    )
    levels = euler(scheduler) if family.flow else ddim(scheduler.config, schedule)
    return Stack(Denoiser(model, family, codec.factor, dtype), codec, text, levels)


def family_in(arch: str, folder: Path) -> Family:
    """The family of a local diffusers folder. Raises SgaError if it is none, or of another kind than `arch`."""
    kind = read_pipeline(folder)["_class_name"]
    what = f"--model {folder} is a {kind}"
    if kind not in FAMILIES:
        known, near = ", ".join(trained_as(arch)), closest(kind, FAMILIES)
        raise SgaError(f"{what}; --arch {arch} trains {known}" + (f"; closest to it is {near}" if near else ""))
    family = family_of(kind)
    if family.arch != arch:
        raise SgaError(f"{what}: train it by --arch {family.arch}; --arch {arch} trains {', '.join(trained_as(arch))}")
    need_diffusers(family.since, what.replace(" is a ", ", a ") + ",")
    return family


def _is_text(name: str) -> bool:
    return name.startswith(("text_encoder", "tokenizer"))


def _parts(folder: Path, wanted: set[str]) -> dict[str, str | None]:
    """Name -> class of all parts, None for one that the folder does without.

    Raises SgaError where one of the wanted, or of the text's, is not there though the index names it.
    """
    index = {name: part[1] for name, part in read_pipeline(folder).items() if isinstance(part, list)}
    named = [name for name, kind in index.items() if kind and (name in wanted or _is_text(name))]
    missing = [name for name in named if not (folder / name).is_dir()]
    if missing:
        raise SgaError(
            f"--model {folder} lacks {', '.join(missing)}, which its model_index.json names: download the whole of it"
        )
    return index


def _has_text(parts: dict[str, str | None], family: Family, what: str) -> bool:
    """Whether captions can be encoded. Raises SgaError for a folder with some of what that takes."""
    needed = [name for name in parts if _is_text(name) and name not in family.optional]
    missing = [name for name in needed if parts[name] is None]
    if missing and len(missing) < len(needed):
        raise SgaError(f"{what} has some of {', '.join(needed)} but no {', '.join(missing)}: add what is missing")
    if missing:
        logger.warning(
            "%s has no text encoder: captions become random vectors, one a word, and what the adapter learns of them "
            "no other program knows. Add %s to the folder, unless the samples of this trainer are all you want.",
            what,
            " and ".join(needed),
        )
    return not missing


def _part(folder: Path, parts: dict[str, str | None], name: str, dtype: torch.dtype | None = None) -> Any:
    """dtype: of its weights, if it has any."""
    with _damage_named(folder):
        return getattr(diffusers, str(parts.get(name))).from_pretrained(folder / name, **here(dtype))


def _pipeline(folder: Path, parts: dict[str, str | None], given: dict[str, Any], dtype: torch.dtype) -> Any:
    """The pipeline with its text encoders, for their sake. given: parts that it needs besides, loaded already."""
    others = {name: given.get(name) for name, kind in parts.items() if not (kind and _is_text(name))}
    with _damage_named(folder):
        return DiffusionPipeline.from_pretrained(folder, **here(dtype), **others)


@contextlib.contextmanager
def _damage_named(folder: Path) -> Iterator[None]:
    """Raises SgaError for whatever a damaged part makes diffusers, transformers, torch and safetensors raise."""
    try:
        yield
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise SgaError(f"--model {folder} cannot be loaded: {reason}; download or convert it again") from error


def _must_fit(codec: Codec, wanted: int, what: str) -> None:
    if codec.channels != wanted:
        raise SgaError(
            f"{what} knows latents of {wanted} channels, and here they have {codec.channels}: "
            "give the VAE that it was trained with by --vae"
        )
