"""Options of a detector or captioner, from its table in TOML or `--detector_arg KEY=VALUE`, typed and checked at once.

`micro` of a per-level option is written `threshold.micro`, or as a table; a single value stands for all levels.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sga_kohya.errors import SgaError
from sga_kohya.kit.fields import Fields
from sga_kohya.kit.values import Reader, T, file, number


class Options(Fields):
    """Reads one option after the other, by `read(name, reader, default)` with a reader of kit.values.

    `finish` raises one SgaError with every bad value and unknown name.
    """

    def __init__(
        self,
        detector: str,
        given: Mapping[str, object],
        levels: Sequence[str],
        detected: Sequence[str],
        device: str,
        kind: str = "detector",
        masks: bool = False,
        smallest: Mapping[str, int] | None = None,
    ) -> None:
        """detector: its name; or that of another thing with options, which is of that kind.

        device: where a model is to run, "" for automatic. masks: whether masks of what is found are wanted. smallest:
        by level, the sides in pixels of the photo below which a box makes no slice, or one that has to be enlarged.
        """
        super().__init__(_nested(given), "", [])
        self.detector, self.levels, self.detected, self.device = detector, list(levels), list(detected), device
        self.who, self.masks, self.smallest = f"{kind} {detector}", masks, dict(smallest or {})

    def per_level(self, name: str, reader: Reader[T], default: Callable[[str], T]) -> dict[str, T]:
        """{level: value}; default: from the level's name."""
        self.known.add(name)
        given = self.values.get(name, {})
        values = {level: default(level) for level in self.levels}
        if not isinstance(given, Mapping):
            value = self.parsed(name, given, reader)
            return values if value is None else dict.fromkeys(self.levels, value)
        for level, value in given.items():
            if level not in values:
                self.problems.append(f"{name}.{level}: {level} is no level, use one of {', '.join(self.levels)}")
                continue
            values[level] = self.parsed(f"{name}.{level}", value, reader, values[level])
        return values

    def thresholds(self, default: float) -> dict[str, float]:
        """Lowest score by level, in [0, 1]."""
        return self.per_level("threshold", number(0, 1), lambda level: default)

    def model_files(self, suffix: str) -> dict[str, str]:
        """The option `model`: one file for all levels, or one for each level that is detected. suffix: with its dot."""
        files = self.per_level("model", file(suffix), lambda level: None)
        missing = [level for level in self.detected if not files[level]]
        if missing and not self.problems:
            self.problems.append(
                f"no model for {', '.join(missing)}: give model=FILE{suffix}, or model.LEVEL=FILE{suffix}"
            )
        return {level: str(path) for level, path in files.items() if path}

    def is_per_level(self, name: str) -> bool:
        return isinstance(self.values.get(name), Mapping)

    def finish(self) -> None:
        self.refuse_unknown()
        if self.problems:
            raise SgaError(f"{self.who}: {'; '.join(self.problems)}")


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
