"""A run's checkpoints: what makes an interrupted run go on exactly where it was."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError  # type: ignore[attr-defined]  # of its own Rust

from sga_kohya.config import SgaConfig
from sga_kohya.errors import SgaError
from sga_kohya.kit.cli import one_line
from sga_kohya.kit.files import whole_folder, write_whole
from sga_kohya.reference.denoiser import Denoiser
from sga_kohya.reference.options import RunOptions
from sga_kohya.tuples.planner import VERSION

# What may differ between an interrupted run and the one that resumes it.
_FREE = {"out", "steps", "epochs", "save_every", "sample_every", "gradient_checkpointing", "resume", "ss_sga_version"}

# What runs did whose checkpoints do not say it.
_FORMERLY = {"mixed_precision": "no"}


def find(options: RunOptions, config: SgaConfig) -> Path | None:
    """The folder to resume from, None for a new run. Raises SgaError when it is missing or of other settings."""
    folder = options.out / "checkpoints"
    known = sorted(folder.glob("step-*[0-9]"))
    if options.resume is None:
        if known:
            raise SgaError(f"--out {options.out} already holds a run: add --resume, or name another folder")
        return None
    found = (known[-1] if known else None) if options.resume == "latest" else Path(options.resume)
    if found is None or not (found / "run.json").is_file():
        raise SgaError(f"--resume: no checkpoint at {found or folder}; give a folder such as {folder}/step-00000100")
    try:
        then, now = _FORMERLY | json.loads((found / "run.json").read_text(encoding="utf-8")), _fixed(options, config)
    except ValueError as error:
        raise SgaError(f"--resume {found}: run.json is damaged ({error}); give another folder in {folder}") from None
    changed = [f"{key} was {then.get(key)}, now {now[key]}" for key in now if then.get(key) != now[key]]
    if changed:
        raise SgaError(f"--resume {found}: {'; '.join(changed)}; resume with the same settings and version")
    return found


def save(
    options: RunOptions,
    config: SgaConfig,
    step: int,
    denoiser: Denoiser,
    optimizer: torch.optim.Optimizer,
    metadata: dict[str, str],
) -> None:
    """Write OUT/checkpoints/step-N, a folder that is either whole or not there."""
    folder = options.out / "checkpoints" / f"step-{step:08d}"
    if folder.exists():
        return
    with saving(options.out), whole_folder(folder) as part:
        denoiser.save(part, metadata)
        torch.save(optimizer.state_dict(), part / "optimizer.pt")
        write_whole(part / "run.json", json.dumps({"step": step, **_fixed(options, config)}, indent=1))


@contextlib.contextmanager
def saving(out: Path) -> Iterator[None]:
    """Raises SgaError where the disk takes no more, of which torch and safetensors each raise their own."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        remedy = "make room and go on from the last checkpoint by --resume, or begin in another folder by --out"
        raise SgaError(f"{out}: what is trained cannot be saved ({reason}); {remedy}") from error


def restore(folder: Path, denoiser: Denoiser, optimizer: torch.optim.Optimizer) -> int:
    """Load what `save` wrote. Returns the step. Raises SgaError where it is damaged."""
    try:
        denoiser.load(folder)
        optimizer.load_state_dict(torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True))
        return int(json.loads((folder / "run.json").read_text(encoding="utf-8"))["step"])
    # Of a damaged file torch, pickle, zipfile and safetensors each raise their own.
    except Exception as error:
        others = sorted(path for path in folder.parent.glob("step-*[0-9]") if path != folder)
        remedy = f"resume {others[-1]} by --resume" if others else "begin anew in another folder by --out"
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise SgaError(f"--resume {folder}: a file in it is damaged ({reason}); {remedy}") from error


def _fixed(options: RunOptions, config: SgaConfig) -> dict[str, str]:
    """The settings that must be the same when a run is resumed."""
    settings = {**asdict(options), **config.metadata(), "planner": VERSION}
    return {key: str(value) for key, value in settings.items() if key not in _FREE}
