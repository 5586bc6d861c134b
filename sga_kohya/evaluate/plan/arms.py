"""The five arms of a comparison: one training with and without each part of the method, and their TOMLs.

An arm differs from the base TOML in its data, in the switches of SGA and in the names of what it writes; the rest stays
as it is written there, comments included.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sga_kohya.errors import SgaError
from sga_kohya.evaluate.trainers import TRAINERS, Trainer, trainer_of
from sga_kohya.kit.pictures import is_picture
from sga_kohya.kit.toml_file import merge_sections, parse_toml, read_toml


@dataclass(frozen=True)
class Arm:
    """label: in reports. tuples, modulation: sga_tuples, sga_modulation. raw: whether it trains on whole photos."""

    label: str
    tuples: bool
    modulation: bool
    raw: bool = False

    def data(self, trainer: Trainer) -> str:
        """The description of its data in H-SD's folder."""
        return trainer.raw if self.raw else trainer.slices

    @property
    def switches(self) -> dict[str, bool]:
        return {"sga_tuples": self.tuples, "sga_modulation": self.modulation}


ARMS = {
    "raw": Arm("Raw photos", False, False, raw=True),
    "hsd": Arm("H-SD alone", False, False),
    "without_tuples": Arm("w/o Tuple-wise Opt.", False, True),
    "without_modulation": Arm("w/o Scale-Adaptive Mod.", True, False),
    "full": Arm("Full SGA", True, True),
}
"""raw is the paper's baseline, in Table 1 and Figs. 7 to 10; hsd is plain training on the slices (Fig. 6)."""

IN_EPOCHS = ("max_train_epochs", "save_every_n_epochs", "sample_every_n_epochs")
"""What an arm with fewer pictures an epoch has more of, so that all arms see the same number of pictures."""
ENDLESS = 10_000
"""Epochs, where hours decide."""


def problems(base: Path, settings: Mapping[str, Any], timed: bool = False) -> Iterator[str]:
    """Why a TOML cannot be the base of arms, a sentence each, with the remedy. timed: the arms end by hours."""
    trainer = trainer_of(settings)
    if trainer.model not in settings:
        models = " and no ".join(one.model for one in TRAINERS)
        yield f"{base} is no training TOML: it has no {models}"
    if settings.get("sga") is False:
        yield f"{base}: sga = false switches every arm off: remove it"
    for key in trainer.same:
        if settings.get(key):
            yield f"{base}: {key} would be the same for every arm: remove it"
    scheduler = str(settings.get("lr_scheduler") or "constant")
    if timed and not scheduler.startswith("constant"):
        yield (
            f"{base}: lr_scheduler = {scheduler} must know the end beforehand, and arms with budgets end by hours: use "
            "constant or constant_with_warmup"
        )
    if not timed and "max_train_epochs" not in settings and "sga_stop_at_hours" not in settings:
        yield (
            f"{base}: max_train_steps counts tuple steps, so an arm without tuples would see fewer slices: set "
            "max_train_epochs or sga_stop_at_hours"
        )


def read_base(base: Path) -> tuple[str, dict[str, Any]]:
    """Text and settings of a training TOML. Raises SgaError where it cannot be read."""
    settings = merge_sections(read_toml(base))
    return base.read_text(encoding="utf-8-sig"), settings


def arm_toml(
    base: Path, text: str, arm: Arm, names: Mapping[str, Any], slices: Path, hours: Sequence[float] = ()
) -> str:
    """The TOML of one arm.

    names: output_dir and output_name. slices: the folder that H-SD has made. hours: at which it saves, and with the
    last of which it ends. Raises SgaError where the data are not there, or a key of the base cannot be replaced.
    """
    settings = merge_sections(parse_toml(text, str(base)))
    trainer = trainer_of(settings)
    data = slices / arm.data(trainer)
    keys = {**names, "dataset_config": str(data), **trainer.fixed, **arm.switches}
    if arm.raw:
        more = pictures_an_epoch(slices / trainer.slices, trainer) / max(pictures_an_epoch(data, trainer), 1)
        keys |= {key: max(1, round(settings[key] * more)) for key in IN_EPOCHS if isinstance(settings.get(key), int)}
    if hours:
        saved = ",".join(f"{number:g}" for number in sorted(hours))
        keys |= {"sga_save_at_hours": saved, "sga_stop_at_hours": max(hours), "max_train_epochs": ENDLESS}
    return with_keys(text, settings, keys, base)


def pictures_an_epoch(dataset: Path, trainer: Trainer) -> int:
    """How many an epoch shows, repeats counted. Raises SgaError where there is no such file."""
    if not dataset.is_file():
        raise SgaError(f"{dataset} does not exist: make it by `python -m sga_kohya.hsd PHOTOS {dataset.parent}`")
    folders = trainer.folders(read_toml(dataset))
    return sum(repeats * sum(map(is_picture, folder.glob("*"))) for folder, repeats in folders)


def with_keys(text: str, settings: Mapping[str, Any], keys: Mapping[str, Any], base: Path) -> str:
    """The TOML with these keys on top and their old lines gone. Raises SgaError if that would change anything else."""
    pattern = re.compile(rf"^[ \t]*(?:{'|'.join(keys)})[ \t]*=.*\n?", re.MULTILINE)
    lines = "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in keys.items())
    result = f"# One arm of {base.name}, written by `python -m sga_kohya.evaluate study`.\n{lines}\n"
    result += pattern.sub("", text)
    try:
        same = merge_sections(parse_toml(result, str(base))) == {**settings, **keys}
    except SgaError:
        same = False
    if not same:
        raise SgaError(f"{base}: write each of {', '.join(keys)} on a line of its own, so that it can be replaced")
    return result
