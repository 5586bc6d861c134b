"""A run's settings."""

from dataclasses import dataclass
from pathlib import Path

MIXED_PRECISIONS = ("no", "bf16")


@dataclass(frozen=True)
class RunOptions:
    """The command line's options of the same names; see __main__.py."""

    dataset_config: Path
    out: Path
    arch: str = "dit"
    model: Path | None = None
    vae: Path | None = None
    steps: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    lr: float = 1e-3
    seed: int = 0
    network_dim: int = 16
    network_alpha: float = 16.0
    width: int = 128
    depth: int = 4
    pool: int = 4
    prediction: str | None = None
    zero_terminal_snr: bool = False
    save_every: int = 0
    sample_every: int = 0
    mixed_precision: str | None = None
    gradient_checkpointing: bool = False
    resume: str | None = None
