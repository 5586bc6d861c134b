"""Local folders in diffusers' format: what they say they hold, and errors that tell what was given instead."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
from packaging.version import Version

from sga_kohya.errors import SgaError

PIPELINE, PART = "model_index.json", "config.json"


def read_pipeline(folder: Path) -> dict[str, Any]:
    """model_index.json: the pipeline's class as `_class_name`, and its parts. Raises SgaError naming --model."""
    what = f"--model {folder}"
    if (folder / PART).is_file() and (folder.parent / PIPELINE).is_file():
        raise SgaError(f"{what} is one part of a pipeline: give the whole, {folder.parent}")
    return _read(folder, PIPELINE, what, "the local folder of a diffusers pipeline")


def read_part(folder: Path, name: str) -> SimpleNamespace:
    """config.json of a part of a pipeline. Raises SgaError naming --model."""
    return SimpleNamespace(**_read(folder / name, PART, f"--model {folder}, its {name}", "the whole of it"))


def has_vae(folder: Path) -> bool:
    """Whether a pipeline comes with its VAE."""
    return read_pipeline(folder).get("vae", [None, None]) != [None, None]


def read_vae(folder: Path) -> dict[str, Any]:
    """config.json of a VAE. Raises SgaError naming --vae."""
    what = f"--vae {folder}"
    if (folder / PIPELINE).is_file() and (folder / "vae").is_dir():
        raise SgaError(f"{what} is a whole pipeline: give its part, {folder / 'vae'}")
    return _read(folder, PART, what, "the local folder of a diffusers VAE")


def older(since: str) -> bool:
    """Whether this diffusers is older than that version; one that leads up to it counts as it."""
    return Version(diffusers.__version__).release < Version(since).release


def need_diffusers(since: str, what: str) -> None:
    """Raises SgaError where diffusers is older than a family wants it."""
    if older(since):
        raise SgaError(
            f"{what} needs diffusers {since} or newer, and this is {diffusers.__version__}: install one by "
            f"`pip install -U 'diffusers>={since}' transformers peft`, beside sd-scripts in an environment of its own"
        )


def here(dtype: torch.dtype | None = None) -> dict[str, Any]:
    """What `from_pretrained` is told of a local folder. dtype: of the weights, if there are any.

    Until 0.42 diffusers has another word for it, of which it warns since.
    """
    typed = {} if dtype is None else {"torch_dtype" if older("0.42") else "dtype": dtype}
    return {"local_files_only": True, **typed}


def _read(folder: Path, name: str, what: str, wanted: str) -> dict[str, Any]:
    if not folder.exists():
        raise SgaError(f"{what}: no such folder; give {wanted}")
    if not folder.is_dir():
        raise SgaError(f"{what} is a file; give {wanted}, as its `save_pretrained` makes one")
    if not (folder / name).is_file():
        raise SgaError(f"{what}: no {name} there; give {wanted}")
    try:
        found = json.loads((folder / name).read_text(encoding="utf-8"))
    except ValueError as error:
        raise SgaError(f"{what}: {name} is damaged ({error}); download or convert it again") from None
    if not isinstance(found, dict) or not isinstance(found.get("_class_name"), str):
        raise SgaError(f"{what}: {name} names no class of diffusers; download or convert it again")
    return found
