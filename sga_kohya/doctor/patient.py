"""What the doctor asks of a trainer. Each trainer's answers are one file here; what they know of it is in hosts/."""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from sga_kohya.config import SgaConfig

if TYPE_CHECKING:  # they import torch, which the first answers do not need
    from sga_kohya.hosts.seam import Installation
    from sga_kohya.training.host import Levels
    from sga_kohya.training.session import Session

Maker = Callable[..., Any]
Pins = list[tuple[str, str | None]]
"""Packages, each with the version that it is pinned to, if any."""


@dataclass(frozen=True)
class Files:
    """Options that name models. needed: it cannot start without. others: read where they are given. fetched: whose
    value may also be the name of a repository. words: whose value is no file, though they are needed as well."""

    needed: Sequence[str]
    others: Sequence[str] = ()
    fetched: frozenset[str] = field(default=frozenset())
    words: frozenset[str] = field(default=frozenset())


class Patient(Protocol):
    """A trainer. name: for messages. model: the option that names what is trained."""

    name: str
    model: str

    def script(self, options: Mapping[str, Any]) -> str:
        """The one that is meant. Raises SgaError where nothing tells."""

    def problems(self, script: str, options: Mapping[str, Any], config: SgaConfig) -> Iterator[str]:
        """Why the run cannot work, from words and files alone. script: "" where it is not known."""

    def data_problems(self, options: Mapping[str, Any]) -> Iterator[str]:
        """Of these, what is wrong with the data."""

    def advice(self, options: Mapping[str, Any], config: SgaConfig) -> Iterator[str]:
        """What runs, but not as its owner may think."""

    def find(self, options: Mapping[str, Any]) -> str:
        """Look for it, and say what was found. Raises SgaError; until then nothing below can be asked."""

    def has(self, script: str) -> str:
        """What fits of a script. Raises SgaError where it does not."""

    def pins(self) -> tuple[str, Pins]:
        """What its packages are listed in, and they."""

    def install(self, config: SgaConfig, script: str) -> "Installation": ...

    def parser(self, script: str) -> argparse.ArgumentParser:
        """The real one, once installed."""

    def check(self, script: str, config: SgaConfig, args: argparse.Namespace) -> None:
        """Raises SgaError where settings and model do not fit. args: as its parser made them."""

    def files(self, script: str, args: argparse.Namespace) -> Files: ...

    def network(self, args: argparse.Namespace) -> tuple[str, tuple[str, ...]]:
        """The module of the adapter as it can be imported, "" for none; the functions of which it must have one."""

    def makers(self) -> tuple[Maker, Maker]:
        """Its functions that make an optimizer, (args, parameters) -> (name, words, optimizer, …), and the scheduler of
        its rates, (args, optimizer, processes)."""

    def data(self, script: str, args: argparse.Namespace, words: Sequence[str], session: "Session") -> tuple[int, int]:
        """Build the data as the script does. Returns items and batches of the trainer's own in an epoch."""

    def levels(self, script: str, args: argparse.Namespace, config: SgaConfig) -> "Levels": ...
