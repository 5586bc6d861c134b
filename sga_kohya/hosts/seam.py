"""Replace functions of the host: resolved where they live, checked before anything is touched, undone exactly.

sd-scripts v0.11 turned `library.train_util` into a facade of re-exports, so a function is replaced in the module that
defines it and in every loaded module of the checkout that holds it by name; replacing the facade alone does nothing.
"""

import importlib
import inspect
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from sga_kohya.errors import SgaError
from sga_kohya.hosts.sd_scripts.checkout import TESTED, Checkout
from sga_kohya.training.session import Session

logger = logging.getLogger(__name__)

_MARK = "__sga_seam__"


@dataclass(frozen=True)
class Seam:
    """One place where the host calls us.

    name: what messages call it. target: dotted path by which every supported version reaches the function.
    parameters: those the replacement relies on, in order; the host's function may have more after them.
    replace: (original, session) -> replacement. inside: the name of something the target's module imported, when that
    is what gets replaced instead of the target itself.
    """

    name: str
    target: str
    parameters: tuple[str, ...]
    replace: Callable[[Any, Session], Any]
    inside: str | None = None


@dataclass
class Installation:
    """What was replaced, so that it can be undone. Usable as a context manager."""

    session: Session
    path: str | None = None  # what we put on sys.path
    undo: list[tuple[ModuleType, str, Any]] = field(default_factory=list)

    def uninstall(self) -> None:
        """Put everything back, in reverse order. Doing it twice is harmless."""
        while self.undo:
            module, name, original = self.undo.pop()
            setattr(module, name, original)
        self.session.close()
        if self.path in sys.path:
            sys.path.remove(self.path)
        self.path = None
        if _installed and _installed[-1] is self:
            _installed.pop()

    def __enter__(self) -> "Installation":
        return self

    def __exit__(self, *_: object) -> None:
        self.uninstall()


_installed: list[Installation] = []


def install(seams: Sequence[Seam], session: Session, checkout: Checkout) -> Installation:
    """Replace all the seams' targets, or none. Installing again first undoes the last installation.

    Raises SgaError naming the dotted path when the host lacks a target or has changed its parameters.
    """
    uninstall_all()
    installation = Installation(session, _put_first_on_path(checkout.root))
    _installed.append(installation)
    try:
        found = [(seam, *_resolve(seam)) for seam in seams]
        for seam, owner, name in found:
            _replace(seam, owner, name, installation, checkout.root)
    except BaseException:
        installation.uninstall()
        raise
    return installation


def uninstall_all() -> None:
    """Undo every installation of this process."""
    while _installed:
        _installed[-1].uninstall()


def _put_first_on_path(root: Path) -> str | None:
    """Returns what was added, None where the root was on the path before."""
    loaded = sys.modules.get("library")
    if loaded is not None and not _belongs_to(loaded, root):
        raise SgaError(
            f"a package named `library` is loaded from {getattr(loaded, '__file__', '?')} instead of {root}: "
            "start Python in a fresh process, or name that folder with --sd_scripts"
        )
    known = str(root) in sys.path
    while str(root) in sys.path:
        sys.path.remove(str(root))
    sys.path.insert(0, str(root))
    return None if known else str(root)


def _resolve(seam: Seam) -> tuple[ModuleType, str]:
    """The module that owns the target, and the name to replace in it."""
    module_name, _, name = seam.target.rpartition(".")
    try:
        target = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("library"):
            raise SgaError(
                f"sd-scripts needs the package {error.name!r}, which is not installed: run "
                "`pip install -r requirements.txt` in its checkout, or install sga-kohya with its extra `host`"
            ) from error
        raise _changed(seam, f"it is missing ({error})") from error
    parameters = tuple(inspect.signature(target).parameters)
    if parameters[: len(seam.parameters)] != seam.parameters:
        raise _changed(seam, f"its parameters are ({', '.join(parameters)})")
    owner = sys.modules[target.__module__]
    if seam.inside is not None and not hasattr(owner, seam.inside):
        raise _changed(seam, f"its module {owner.__name__} does not import {seam.inside}")
    return owner, seam.inside or target.__name__


def _changed(seam: Seam, fact: str) -> SgaError:
    return SgaError(
        f"this sd-scripts does not fit the seam {seam.name!r}: {seam.target} is expected with parameters "
        f"({', '.join(seam.parameters)}), but {fact}. Nothing was changed. Tested versions are {TESTED}"
    )


def _replace(seam: Seam, owner: ModuleType, name: str, installation: Installation, root: Path) -> None:
    original = getattr(owner, name)
    replacement = seam.replace(original, installation.session)
    setattr(replacement, _MARK, seam.name)
    # What was imported from elsewhere is replaced for its one user; what is defined here, for all who hold it.
    holders = [(owner, name)] if seam.inside else list(_holders(original, root))
    for module, held_as in holders:
        installation.undo.append((module, held_as, original))
        setattr(module, held_as, replacement)
        logger.debug("seam %s: %s.%s", seam.name, module.__name__, held_as)


def _holders(value: Any, root: Path) -> Iterator[tuple[ModuleType, str]]:
    """Every name of a loaded module that refers to the value: of the checkout's, where the value is its own."""
    own = _belongs_to(sys.modules[value.__module__], root)
    for module in list(sys.modules.values()):
        if isinstance(module, ModuleType) and (not own or _belongs_to(module, root)):
            for name, held in list(vars(module).items()):
                if held is value:
                    yield module, name


def _belongs_to(module: ModuleType, root: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).resolve().is_relative_to(root)
