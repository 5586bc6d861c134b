"""Options of one detector, from `[detector]` in TOML or `--detector_arg KEY=VALUE`, typed and checked at once.

`micro` of a per-level option is written `threshold.micro`, or as a table; a single value stands for all levels.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sga_kohya.errors import SgaError

T = TypeVar("T")


class Options:
    """Reads one option after the other; `finish` raises one SgaError with every bad value and unknown name."""

    def __init__(
        self,
        detector: str,
        given: Mapping[str, object],
        levels: Sequence[str],
        detected: Sequence[str],
        device: str,
        smallest: Mapping[str, int] | None = None,
    ) -> None:
        """given: as the user wrote them. levels: names, coarse to fine. detected: those of them that are looked for.

        device: where a model is to run, "" for automatic. smallest: by level, the sides in pixels of the photo below
        which a box makes no slice, or one that has to be enlarged.
        """
        self.detector, self.levels, self.detected, self.device = detector, list(levels), list(detected), device
        self.smallest = dict(smallest or {})
        self.problems: list[str] = []
        self._given = _nested(given)
        self._known: set[str] = set()

    def text(self, name: str, default: str = "") -> str:
        return self._one(name, str, default)

    def choice(self, name: str, values: Sequence[str]) -> str:
        """The first of `values` is the default."""
        return self._one(name, lambda value: one_of(value, values), values[0])

    def number(self, name: str, default: float, low: float, high: float = math.inf) -> float:
        return self._one(name, lambda value: _number(value, low, high), default)

    def whole(self, name: str, default: int, low: int = 1) -> int:
        return self._one(name, lambda value: _whole(value, low), default)

    def path(self, name: str) -> Path | None:
        """An existing file or folder."""
        return self._one(name, existing, None)

    def table(self, name: str) -> dict[str, Any]:
        """A free table, such as what is passed on to a server."""
        self._known.add(name)
        value = self._given.get(name, {})
        if not isinstance(value, Mapping):
            self._problem(name, value, f"write it as {name}.KEY=VALUE")
            return {}
        return dict(value)

    def per_level(self, name: str, parse: Callable[[object], T], default: Callable[[str], T]) -> dict[str, T]:
        """{level: value}; default: from the level's name."""
        self._known.add(name)
        given = self._given.get(name, {})
        values = {level: default(level) for level in self.levels}
        if not isinstance(given, Mapping):
            value = self._parsed(name, given, parse, None)
            return values if value is None else dict.fromkeys(self.levels, value)
        for level, value in given.items():
            if level not in values:
                self.problems.append(f"{name}.{level}: {level} is no level, use one of {', '.join(self.levels)}")
                continue
            values[level] = self._parsed(f"{name}.{level}", value, parse, values[level])
        return values

    def thresholds(self, default: float) -> dict[str, float]:
        """Lowest score by level, in [0, 1]."""
        return self.per_level("threshold", lambda value: _number(value, 0, 1), lambda level: default)

    def model_files(self, suffixes: Sequence[str]) -> dict[str, str]:
        """The option `model`: one file for all levels, or one for each level that is detected."""
        files = self.per_level("model", lambda value: _file(value, suffixes), lambda level: "")
        missing = [level for level in self.detected if not files[level]]
        if missing and not self.problems:
            suffix = suffixes[0]
            self.problems.append(
                f"no model for {', '.join(missing)}: give model=FILE{suffix}, or model.LEVEL=FILE{suffix}"
            )
        return {level: file for level, file in files.items() if file}

    def is_per_level(self, name: str) -> bool:
        return isinstance(self._given.get(name), Mapping)

    def finish(self) -> None:
        for name in sorted(self._given.keys() - self._known):
            known = ", ".join(sorted(self._known))
            self.problems.append(f"no option {name}, " + (f"use one of {known}" if known else "it has none"))
        if self.problems:
            raise SgaError(f"detector {self.detector}: {'; '.join(self.problems)}")

    def _one(self, name: str, parse: Callable[[object], T], default: T) -> T:
        self._known.add(name)
        return self._parsed(name, self._given[name], parse, default) if name in self._given else default

    def _parsed(self, name: str, value: object, parse: Callable[[object], T], default: T) -> T:
        try:
            return parse(value)
        except ValueError as error:
            self._problem(name, value, str(error))
            return default

    def _problem(self, name: str, value: object, remedy: str) -> None:
        self.problems.append(f"{name} = {value!r}: {remedy}")


def of_each(detectors: Sequence[str], given: Mapping[str, object]) -> dict[str, dict[str, Any]]:
    """Which of the options are for which of several detectors: those behind its name, "yolo.model" or a table `yolo`.

    What has no name in front is for the first.
    """
    shared: dict[str, dict[str, Any]] = {detector: {} for detector in detectors}
    for name, value in given.items():
        head, _, tail = name.partition(".")
        if head not in shared:
            shared[detectors[0]][name] = value
        elif tail:
            shared[head][tail] = value
        else:
            shared[head] |= dict(value) if isinstance(value, Mapping) else {name: value}
    return shared


def words(value: object) -> tuple[str, ...]:
    """A list, or words separated by commas."""
    items = value.split(",") if isinstance(value, str) else value if isinstance(value, Sequence) else [value]
    found = tuple(str(item).strip() for item in items)
    if not found or not all(found):
        raise ValueError("write names separated by commas")
    return found


def _nested(options: Mapping[str, object]) -> dict[str, Any]:
    """`{"labels.micro": "face"}` as `{"labels": {"micro": "face"}}`; tables stay."""
    nested: dict[str, Any] = {}
    for name, value in options.items():
        head, _, tail = name.partition(".")
        if tail and isinstance(nested.setdefault(head, {}), dict):
            nested[head][tail] = value
        else:
            nested[name] = dict(value) if isinstance(value, Mapping) else value
    return nested


def one_of(value: object, values: Sequence[str]) -> str:
    if value not in values:
        raise ValueError(f"use one of {', '.join(values)}")
    return str(value)


def _number(value: object, low: float, high: float) -> float:
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if not low <= number <= high:
        raise ValueError(f"use a number from {low:g}" + (f" to {high:g}" if high < math.inf else ""))
    return number


def _whole(value: object, low: int) -> int:
    try:
        number = int(str(value))
    except ValueError:
        number = low - 1
    if number < low:
        raise ValueError(f"use a whole number from {low}")
    return number


def _file(value: object, suffixes: Sequence[str]) -> str:
    path = existing(value)
    if path.suffix.lower() not in suffixes or not path.is_file():
        raise ValueError(f"give a {' or '.join(suffixes)} file")
    return str(path)


def existing(value: object) -> Path:
    path = Path(str(value)).expanduser()
    if not path.exists():
        raise ValueError("no such file or folder")
    return path
