"""What is chosen by name and has options of its own: built in, registered, or a function that a user names."""

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial, reduce
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, TypeVar

from sga_kohya.errors import SgaError
from sga_kohya.hsd.detectors.options import Options
from sga_kohya.kit.hints import did_you_mean

T = TypeVar("T")
Factory = Callable[[Options, Path], T]
"""Called once per run with what the user wants of it and PHOTOS, before any photo is read. Reads its options and calls
their `finish`, so that a misspelt one is not passed over in silence. Raises SgaError."""


class Registry(dict[str, Factory[T]], Generic[T]):
    """{name: factory} of one kind of thing."""

    def __init__(
        self, kind: str, package: str, built_in: Sequence[str], of_function: Callable[[str, Callable[..., Any]], T]
    ) -> None:
        """kind: as errors call it. package: has a module with a factory `create` for each built-in name, '_' for '-',
        imported only when it is used. of_function: makes one of a user's function and its name.
        """
        self.kind, self._of_function = kind, of_function
        super().__init__({name: partial(_create, f"{package}.{name.replace('-', '_')}") for name in built_in})

    def register(self, name: str, factory: Factory[T]) -> None:
        """Makes a name valid. Raises ValueError when it is taken."""
        if name in self:
            raise ValueError(f"{self.kind} {name!r} is already registered: choose another name")
        self[name] = factory

    def knows(self, name: str) -> bool:
        """Whether it is registered, or has the form of a function's name, package.module:function."""
        parts = name.replace(":", ".").split(".")
        return name in self or (name.count(":") == 1 and all(map(str.isidentifier, parts)))

    def refusal(self, name: str) -> str:
        """Of a name that it does not know."""
        return f"{self.kind} {name!r}: {did_you_mean(name, self)}; or package.module:function for one of your own"

    def make(self, name: str, options: Options, photos: Path) -> T:
        """By a name that it knows. Raises SgaError for a function that is not there, and for bad options."""
        if name in self:
            return self[name](options, photos)
        function = self._function(name)
        options.finish()
        return self._of_function(name, function)

    def source(self, name: str) -> Path | None:
        """The file that a function of one's own stands in, None for what is registered."""
        if name in self:
            return None
        self._function(name)
        file = getattr(sys.modules[name.partition(":")[0]], "__file__", None)
        return Path(file) if file else None

    def _function(self, name: str) -> Callable[..., Any]:
        module, _, path = name.partition(":")
        if os.getcwd() not in sys.path:  # `python -m` puts it there, the command `sga-kohya` does not
            sys.path.append(os.getcwd())
        try:
            function = reduce(getattr, path.split("."), import_module(module))
        except Exception as error:  # whatever a stranger's module raises as it is imported
            why = " ".join(f"{type(error).__name__}: {error}".split())
            raise SgaError(
                f"{self.kind} {name}: {why}; name a function as package.module:function, in a file of this folder or "
                "an installed package"
            ) from error
        if not callable(function):
            raise SgaError(f"{self.kind} {name}: it is no function but {function!r:.80}")
        found: Callable[..., Any] = function
        return found


def called(who: str, function: Callable[..., Any], *arguments: object) -> Any:
    """What a user's function returns. who: it and what it is at, "captioner a.b:c fails at x.png"."""
    try:
        return function(*arguments)
    except Exception as error:  # of a stranger's code, anything
        raise SgaError(f"{who}: {type(error).__name__}: {error}") from error


def _create(module: str, options: Options, photos: Path) -> Any:
    return import_module(module).create(options, photos)
