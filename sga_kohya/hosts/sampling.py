"""What any host is asked to draw with a trained model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Sampling:
    """How images are made. width, height: pixels. scale: classifier-free guidance. config: training TOML."""

    script: str = "flux_minimal_inference.py"
    config: str = ""
    weights_as: str = ""
    width: int = 1024
    height: int = 1024
    steps: int = 20
    guidance: float = 3.5
    scale: float = 1.0
    negative: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
