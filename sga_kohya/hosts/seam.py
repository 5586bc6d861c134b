"""Replace functions of a host: resolved where they live, checked before anything is touched, undone exactly.

Hosts re-export: sd-scripts v0.11 turned `library.train_util` into a facade. So a function is replaced in the module
that defines it and in every loaded module that holds it by name; replacing the facade alone does nothing. A method is
replaced in the class that the target names.
"""

import importlib
import inspect
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from sga_kohya.errors import SgaError
from sga_kohya.hosts.host import HostPackage
from sga_kohya.training.session import Session

logger = logging.getLogger(__name__)

_MARK = "__sga_seam__"
Owner = ModuleType | type


@dataclass(frozen=True)
class Seam:
    """One place where the host calls us.

    name: what messages call it. target: dotted path by which every supported version reaches it, `package.module.name`
    or `package.module.Class.name`. parameters: those the replacement relies on, in order; the host's function may have
    more after them. replace: (original, session) -> replacement. inside: the name of something the target's module
    imported, when that is what gets replaced instead of the target itself.
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
    undo: list[tuple[Owner, str, Any]] = field(default_factory=list)
    replaced: list[tuple[Any, Any]] = field(default_factory=list)  # (replacement, original), in order

    def uninstall(self) -> None:
        """Put everything back, in reverse order. Doing it twice is harmless."""
        while self.undo:
            owner, name, original = self.undo.pop()
            setattr(owner, name, original)
        self._restore_late_importers()
        self.session.close()
        if self.path in sys.path:
            sys.path.remove(self.path)
        self.path = None
        if _installed and _installed[-1] is self:
            _installed.pop()

    def _restore_late_importers(self) -> None:
        """Modules that were imported after us, as a host's scripts are, have taken replacements by name."""
        originals = {id(replacement): original for replacement, original in self.replaced}
        for module in [module for module in list(sys.modules.values()) if isinstance(module, ModuleType)]:
            for name, held in list(vars(module).items()) if originals else ():
                while id(held) in originals:
                    held = originals[id(held)]
                    setattr(module, name, held)
        self.replaced.clear()

    def __enter__(self) -> "Installation":
        return self

    def __exit__(self, *_: object) -> None:
        self.uninstall()


_installed: list[Installation] = []


def install(seams: Sequence[Seam], session: Session, host: HostPackage) -> Installation:
    """Replace all the seams' targets, or none. Installing again first undoes the last installation.

    Raises SgaError naming the dotted path when the host lacks a target or has changed its parameters.
    """
    uninstall_all()
    installation = Installation(session, host.put_first_on_path())
    _installed.append(installation)
    try:
        found = [(seam, *_resolve(seam, host)) for seam in seams]
        for seam, owner, name in found:
            _replace(seam, owner, name, installation, host)
    except BaseException:
        installation.uninstall()
        raise
    return installation


def uninstall_all() -> None:
    """Undo every installation of this process."""
    while _installed:
        _installed[-1].uninstall()


def _resolve(seam: Seam, host: HostPackage) -> tuple[Owner, str]:
    """The module or class that owns the target, and the name to replace in it."""
    try:
        holder, name = _walk(seam.target)
        target = getattr(holder, name)
    except (ImportError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] != host.package:
            raise SgaError(
                f"{host.name} needs the package {error.name!r}, which is not installed: {host.missing}"
            ) from error
        raise _changed(seam, host, f"it is missing ({error})") from error
    parameters = tuple(inspect.signature(target).parameters)
    if parameters[: len(seam.parameters)] != seam.parameters:
        raise _changed(seam, host, f"its parameters are ({', '.join(parameters)})")
    if isinstance(holder, type):
        return holder, name
    owner = sys.modules[target.__module__]
    if seam.inside is not None and not hasattr(owner, seam.inside):
        raise _changed(seam, host, f"its module {owner.__name__} does not import {seam.inside}")
    return owner, seam.inside or target.__name__


def _walk(target: str) -> tuple[Owner, str]:
    """What holds the target's last name: the class before it, or the longest module that can be imported."""
    holder_name, _, name = target.rpartition(".")
    module_name, _, last = holder_name.rpartition(".")
    if not last[:1].isupper():
        return importlib.import_module(holder_name), name
    holder = getattr(importlib.import_module(module_name), last)
    # An inherited method is its base's affair, and another class would be changed with it.
    if name not in vars(holder):
        raise AttributeError(f"{last} has no {name} of its own")
    return holder, name


def _changed(seam: Seam, host: HostPackage, fact: str) -> SgaError:
    return SgaError(
        f"this {host.name} does not fit the seam {seam.name!r}: {seam.target} is expected with parameters "
        f"({', '.join(seam.parameters)}), but {fact}. Nothing was changed. Tested versions are {host.tested}"
    )


def _replace(seam: Seam, owner: Owner, name: str, installation: Installation, host: HostPackage) -> None:
    original = vars(owner)[name]
    replacement = seam.replace(original, installation.session)
    setattr(replacement, _MARK, seam.name)
    installation.replaced.append((replacement, original))
    # What was imported from elsewhere is replaced for its one user, a method for its class; a function for all holders.
    alone = seam.inside is not None or isinstance(owner, type)
    for holder, held_as in [(owner, name)] if alone else list(_holders(original, host)):
        installation.undo.append((holder, held_as, original))
        setattr(holder, held_as, replacement)
        logger.debug("seam %s: %s.%s", seam.name, holder.__name__, held_as)


def _holders(value: Any, host: HostPackage) -> Iterator[tuple[ModuleType, str]]:
    """Every name of a loaded module that refers to the value: of the host's modules, where the value is its own."""
    own = host.owns(sys.modules[value.__module__])
    for module in list(sys.modules.values()):
        if isinstance(module, ModuleType) and (not own or host.owns(module)):
            for name, held in list(vars(module).items()):
                if held is value:
                    yield module, name
