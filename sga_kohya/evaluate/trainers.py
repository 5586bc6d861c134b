"""The trainers that arms are trained and drawn with: all that an evaluation has to know of each.

One is a class here and a place in TRAINERS; what it draws with is samplers.py in its host's folder.
"""

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sga_kohya.config import SgaConfig
from sga_kohya.errors import SgaError
from sga_kohya.hosts.musubi import checks as musubi_checks
from sga_kohya.hosts.musubi import families as musubi_families
from sga_kohya.hosts.musubi import samplers as musubi_samplers
from sga_kohya.hosts.musubi.checkout import Tuner, find_tuner
from sga_kohya.hosts.sampling import Sampler, Script
from sga_kohya.hosts.sd_scripts import checks as sd_checks
from sga_kohya.hosts.sd_scripts import samplers as sd_samplers
from sga_kohya.hosts.sd_scripts.checkout import Checkout, find_checkout
from sga_kohya.hosts.sd_scripts.families import SCRIPTS, guess_script
from sga_kohya.words import RAW_MUSUBI_TOML, RAW_TOML

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Program:
    """What runs a script of a trainer. environment: beside one's own."""

    words: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


class Trainer(ABC):
    """A host, whose scripts lie in one folder, `root`.

    model: the key without which a TOML is none of its. option: names its checkout on the command line. slices, raw: the
    files by which H-SD describes its slices and the photos. fixed: what every arm's TOML says. same: keys that would
    train every arm on the same data. sampler: what draws.
    """

    name: str
    model: str
    option: str
    slices: str
    raw: str
    fixed: Mapping[str, Any]
    same: Sequence[str]
    sampler: Sampler

    @abstractmethod
    def find(self, named: str | None) -> Path:
        """Its folder. Raises SgaError where there is none."""

    @abstractmethod
    def program(self, root: Path, script: str) -> Program:
        """What runs one of its other scripts."""

    @abstractmethod
    def doors(self) -> Sequence[str]:
        """The names of its training scripts that a study can be made with."""

    @abstractmethod
    def guess(self, settings: Mapping[str, Any]) -> str:
        """The door for a TOML. Raises SgaError where that does not tell."""

    @abstractmethod
    def door(self, root: Path, door: str) -> list[str]:
        """The words behind a launcher's."""

    @abstractmethod
    def check(self, root: Path, door: str) -> None:
        """Raises SgaError where this version has no such script."""

    @abstractmethod
    def problems(self, door: str, options: Mapping[str, Any], config: SgaConfig) -> Iterator[str]:
        """What is wrong with an arm's settings."""

    @abstractmethod
    def draws(self, door: str, settings: Mapping[str, Any]) -> str | None:
        """The script that draws with what a door trains; None where one must be named, or there is no such door."""

    @abstractmethod
    def folders(self, tables: Mapping[str, Any]) -> Iterator[tuple[Path, int]]:
        """The folders of pictures in a description of data, with their repeats."""

    @abstractmethod
    def caching(self, door: str, settings: Mapping[str, Any], data: Path) -> Iterator[tuple[str, list[str]]]:
        """The scripts that must have run before a training on these data, with their words."""


class SdScripts(Trainer):
    name, model, option = "sd-scripts", "pretrained_model_name_or_path", "sd_scripts"
    slices, raw = "dataset.toml", RAW_TOML
    fixed = MappingProxyType({"save_model_as": "safetensors"})
    same = ("train_data_dir", "in_json", "dataset_class", "reg_data_dir", "resume")
    sampler = sd_samplers

    def find(self, named: str | None) -> Path:
        return find_checkout(named).root

    def program(self, root: Path, script: str) -> Program:
        return Program([sys.executable, str(root / script)])

    def doors(self) -> Sequence[str]:
        return [name.removesuffix(".py") for name in SCRIPTS]

    def guess(self, settings: Mapping[str, Any]) -> str:
        return guess_script(settings).removesuffix(".py")

    def door(self, root: Path, door: str) -> list[str]:
        return ["-m", f"sga_kohya.{door}", "--sd_scripts", str(root)]

    def check(self, root: Path, door: str) -> None:
        Checkout(root).script(f"{door}.py")

    def problems(self, door: str, options: Mapping[str, Any], config: SgaConfig) -> Iterator[str]:
        return sd_checks.problems(options, config)

    def draws(self, door: str, settings: Mapping[str, Any]) -> str | None:
        """The training script draws with every network as it was trained, LyCORIS included; not with a full model."""
        return f"{door}.py" if settings.get("network_module") else None

    def folders(self, tables: Mapping[str, Any]) -> Iterator[tuple[Path, int]]:
        for entry in tables.get("datasets", []):
            for subset in entry.get("subsets", []):
                yield Path(subset["image_dir"]), int(subset.get("num_repeats", 1))

    def caching(self, door: str, settings: Mapping[str, Any], data: Path) -> Iterator[tuple[str, list[str]]]:
        yield from ()


class MusubiTuner(Trainer):
    """`root` is the folder of its package. It trains on caches, which are made anew before each training's data."""

    name, model, option = musubi_families.HOST, "dit", "musubi_tuner"
    slices, raw = "dataset_musubi.toml", RAW_MUSUBI_TOML
    fixed = _NOTHING
    same = ("resume",)
    sampler = musubi_samplers

    def find(self, named: str | None) -> Path:
        return find_tuner(named).modules

    def program(self, root: Path, script: str) -> Program:
        path = os.pathsep.join([str(root.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        return Program([sys.executable, str(root / script)], {"PYTHONPATH": path})

    def doors(self) -> Sequence[str]:
        return list(musubi_samplers.FAMILIES)

    def guess(self, settings: Mapping[str, Any]) -> str:
        found = musubi_families.script_of_network(settings.get("network_module"))
        if found is None:
            raise SgaError("which of musubi-tuner's scripts is this for? Write door, such as flux_2_train_network")
        if found not in musubi_samplers.FAMILIES:
            raise SgaError(
                f"{found}'s pictures cannot be drawn from here: train the arms of its presets (NAME_raw, NAME_hsd, …), "
                "draw with its own script, and name the pictures as `images` of a plan's variants"
            )
        return found

    def door(self, root: Path, door: str) -> list[str]:
        checkout = ["--musubi_tuner", str(root.parents[1])] if root.parent.name == "src" else []
        return ["-m", "sga_kohya.musubi", door, *checkout]

    def check(self, root: Path, door: str) -> None:
        Tuner(root, root.parent).module(door)

    def problems(self, door: str, options: Mapping[str, Any], config: SgaConfig) -> Iterator[str]:
        yield from musubi_checks.problems(door, options, config)
        if names := musubi_samplers.missing(options):
            yield f"no {' and no '.join(names)}: the scripts that cache and draw need them, so name them in the TOML"

    def draws(self, door: str, settings: Mapping[str, Any]) -> str | None:
        return musubi_samplers.script_for(door)

    def folders(self, tables: Mapping[str, Any]) -> Iterator[tuple[Path, int]]:
        usual = tables.get("general", {}).get("num_repeats", 1)
        for entry in tables.get("datasets", []):
            if "image_directory" in entry:
                yield Path(entry["image_directory"]), int(entry.get("num_repeats", usual))

    def caching(self, door: str, settings: Mapping[str, Any], data: Path) -> Iterator[tuple[str, list[str]]]:
        return musubi_samplers.caching(door, settings, data)


SD_SCRIPTS, MUSUBI = SdScripts(), MusubiTuner()
TRAINERS: tuple[Trainer, ...] = (SD_SCRIPTS, MUSUBI)


def trainer_of(settings: Mapping[str, Any]) -> Trainer:
    """Whose TOML these settings are."""
    return next((trainer for trainer in TRAINERS if trainer.model in settings), TRAINERS[0])


def drawing_with(script: str) -> Trainer:
    """Whose script draws. Raises SgaError where nobody has one of that name."""
    found = next((trainer for trainer in TRAINERS if script in trainer.sampler.SCRIPTS), None)
    if found is None:
        raise SgaError(f"[generate]: script = {script!r}: write one of {', '.join(_names())}")
    return found


def script_named(name: str) -> Script:
    return drawing_with(name).sampler.SCRIPTS[name]


def _names() -> Iterable[str]:
    return (name for trainer in TRAINERS for name in trainer.sampler.SCRIPTS)
