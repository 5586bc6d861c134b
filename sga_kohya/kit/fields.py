"""Read a table of settings field by field, and collect what is wrong with it instead of stopping at the first."""

from collections.abc import Callable, Mapping
from typing import Any

from sga_kohya.kit.hints import did_you_mean
from sga_kohya.kit.values import Reader, T, listed, mapping


def shown(value: object) -> str:
    """A value in an error: short, whatever a file may hold."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= 100 else f"{text[:80]}... ({len(text)} characters)"


class Fields:
    """One table. Wrong and unknown fields become sentences in `problems`, which several tables may share."""

    def __init__(self, values: object, where: str, problems: list[str]) -> None:
        """where: the table's name in front of its problems, "" for none."""
        self.where, self.problems = where, problems
        if not isinstance(values, Mapping):
            problems.append(f"{where}: write a table, not {shown(values)}")
            values = {}
        self.values, self.known = dict(values), set[str]()

    def read(self, key: str, reader: Reader[T], default: Any = None, required: bool = False) -> T | Any:
        """The value of `key`; the default where there is none, or where the reader refuses it."""
        self.known.add(key)
        if key in self.values:
            return self.parsed(key, self.values[key], reader, default)
        if required:
            self.complain(key, "is missing: write it")
        return default

    def given(self, readers: Mapping[str, Reader[Any]]) -> dict[str, Any]:
        """What the table has of these keys and can be read."""
        read = {key: self.read(key, reader, self) for key, reader in readers.items()}
        return {key: value for key, value in read.items() if value is not self}

    def parsed(self, key: str, value: object, reader: Reader[T], default: Any = None) -> T | Any:
        try:
            return reader(value)
        except ValueError as remedy:
            self.complain(key, f"= {shown(value)}: {remedy}")
            return default

    def tables(self, key: str, required: bool = True) -> list["Fields"]:
        """The tables of `[[key]]`, each named by its own name or its place."""
        values = self.read(key, listed(mapping), (), required=required)
        return [
            Fields(value, f"{key} {value.get('name') or place}", self.problems) for place, value in enumerate(values, 1)
        ]

    def table(self, key: str) -> "Fields":
        return Fields(self.read(key, mapping, {}), f"[{key}]", self.problems)

    def complain(self, key: str, sentence: str) -> None:
        self.problems.append(f"{self.where}: {key} {sentence}" if self.where else f"{key} {sentence}")

    def refuse_unknown(self, hint: Callable[[str, set[str]], str] = did_you_mean) -> None:
        """Call when every known field was asked for. hint: what to write for an unknown key, given the known ones."""
        for key in sorted(self.values.keys() - self.known):
            self.complain(key, f"is unknown: {hint(key, self.known)}")
