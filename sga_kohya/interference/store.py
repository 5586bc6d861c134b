"""What was measured, on disk after every round over the noise levels, so that an interrupted measurement goes on."""

from pathlib import Path
from typing import Any

import torch

from sga_kohya.errors import SgaError
from sga_kohya.interference.points import Measurement
from sga_kohya.kit.files import whole_file

FILE = "measured.pt"
_KEPT = ("done", "seen", "steps", "windows")
_FORM = 2  # of the content; what another version has measured is not mixed in


def load(out: Path, facts: dict[str, str], levels: list[float], points: int) -> Measurement:
    """What OUT holds of this measurement, or an empty one. Raises SgaError when OUT holds another."""
    settings = {**facts, "levels": levels, "form": _FORM}
    file = out / FILE

    def save(measured: Measurement) -> None:
        if measured.done % len(levels) and measured.done < measured.total:
            return
        content = {key: value for key, value in vars(measured).items() if key in _KEPT}
        out.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as part:
            torch.save({"settings": settings, **content, "steps": dict(measured.steps)}, part)

    measured = Measurement(levels, points, save)
    if not file.is_file():
        return measured
    found: dict[str, Any] = torch.load(file, weights_only=True)
    if found.pop("settings") != settings:
        raise SgaError(f"{out} holds another measurement: name another folder by --out, or delete it")
    measured.steps.update(found.pop("steps"))
    for key, value in found.items():
        setattr(measured, key, value)
    return measured
