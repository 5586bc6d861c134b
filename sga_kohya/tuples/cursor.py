"""How far a run has come: what a saved state must know, beside accelerate's, to be resumed exactly."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sga_kohya.errors import SgaError

FILE = "sga_cursor.json"


@dataclass
class Cursor:
    """step: optimizer steps made. epoch: the one being trained. position: tuple steps of it that this process has made.

    groups: trained by this process. seconds: of training, loading included; sampling, validation and saving are not.
    saved_hours: the time budgets that were saved for. seed: the plan's. plan: what the plan was made of, by name; it
    must not change for position to mean the same.
    """

    step: int = 0
    epoch: int = 0
    position: int = 0
    groups: int = 0
    seconds: float = 0.0
    saved_hours: list[float] = field(default_factory=list)
    seed: int = 0
    plan: dict[str, str] = field(default_factory=dict)

    @property
    def hours(self) -> float:
        return self.seconds / 3600

    def save(self, folder: Path) -> None:
        """Into a folder that is itself not yet in place."""
        (folder / FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Cursor | None":
        """None where the state was saved by something else. Raises SgaError when the file cannot be read."""
        file = folder / FILE
        if not file.is_file():
            return None
        try:
            return cls(**json.loads(file.read_text(encoding="utf-8")))
        except (TypeError, ValueError) as error:
            raise SgaError(
                f"{file} is damaged or of another version of sga_kohya ({error}): resume another state"
            ) from None

    def changed(self, plan: dict[str, str]) -> list[str]:
        """What differs between the saved plan and this one, in words."""
        names = {**self.plan, **plan}
        return [
            f"{name} {self.plan.get(name)}, now {plan.get(name)}"
            for name in names
            if self.plan.get(name) != plan.get(name)
        ]
