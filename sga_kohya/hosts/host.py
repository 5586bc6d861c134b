"""What a host's package is called and where it lies: all that seams need to know of it."""

import functools
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from sga_kohya.errors import SgaError


@dataclass(frozen=True)
class HostPackage:
    """A trainer that SGA goes into.

    name: what messages call it. package: its top-level package. root: the folder to import it from, None where it is
    installed. tested: versions, in words. missing: what to do when a package that the host itself needs is missing.
    """

    name: str
    package: str
    root: Path | None
    tested: str
    missing: str

    def owns(self, module: ModuleType) -> bool:
        """Whether a loaded module is the host's own: below its root, or else of its package."""
        if self.root is None:
            return module.__name__.partition(".")[0] == self.package
        file = getattr(module, "__file__", None)
        return file is not None and _is_below(os.path.dirname(file), self.root)

    def put_first_on_path(self) -> str | None:
        """Let its package be imported from root. Returns what was added to sys.path, None where it was there before.

        Raises SgaError when a package of that name is loaded from elsewhere.
        """
        if self.root is None:
            return None
        loaded, folder = sys.modules.get(self.package), str(self.root)
        if loaded is not None and not self.owns(loaded):
            raise SgaError(
                f"a package named `{self.package}` is loaded from {getattr(loaded, '__file__', '?')} instead of "
                f"{folder}: start Python in a fresh process, or name the folder of the {self.name} that you mean"
            )
        known = folder in sys.path
        while folder in sys.path:
            sys.path.remove(folder)
        sys.path.insert(0, folder)
        return None if known else folder


@functools.cache
def _is_below(folder: str, root: Path) -> bool:
    """Links resolved. Kept, because every seam asks it of some thousand modules, which lie in a few hundred folders."""
    return Path(folder).resolve().is_relative_to(root)
