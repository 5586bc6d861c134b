"""Read a TOML table field by field, and collect what is wrong with it instead of stopping at the first."""

import difflib
import math
import sys
from collections.abc import Mapping
from typing import Any, TypeGuard

KINDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", list: "a list", dict: "a table"}


def is_number(value: object) -> TypeGuard[float]:
    """Whether JSON or TOML wrote a number that can be reckoned with: no true or false, no NaN, nothing endless.

    JSON's whole numbers may be larger than a float can be, and math.isfinite raises for those.
    """
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


class Table:
    """One table of a plan. Wrong and unknown fields become sentences in `problems`, which all tables share."""

    def __init__(self, values: object, where: str, problems: list[str]) -> None:
        self.where, self.problems = where, problems
        if not isinstance(values, Mapping):
            problems.append(f"{where}: write a table, not {values!r}")
            values = {}
        self.values, self.known = values, set[str]()

    def get(
        self, key: str, kind: type[Any], default: Any = None, low: float | None = None, required: bool = False
    ) -> Any:
        """The value of `key`, or the default. low: the least number allowed."""
        self.known.add(key)
        if key not in self.values:
            if required:
                self.complain(key, f"is missing; write {KINDS[kind]}")
            return default
        value = self.values[key]
        if kind is float and type(value) is int:
            value = float(value) if abs(value) < 1e300 else math.inf
        if type(value) is not kind and not (kind is dict and isinstance(value, Mapping)):
            self.complain(key, f"= {value!r}: write {KINDS[kind]}")
            return default
        if kind is float and not math.isfinite(value):
            self.complain(key, f"= {value}: write a number")
            return default
        if kind is str and "\0" in value:
            self.complain(key, f"= {value!r}: leave out the character with the code 0")
            return default
        if low is not None and not value >= low:
            self.complain(key, f"= {value}: write {low:g} or more")
            return default
        return value

    def choice(self, key: str, allowed: tuple[str, ...], default: str = "") -> str:
        value = self.get(key, str, default)
        if value != default and value not in allowed:
            self.complain(key, f"= {value!r}: write one of {', '.join(allowed)}")
            return default
        return value

    def listed(self, key: str, kind: type[Any], required: bool = False) -> tuple[Any, ...]:
        """A list of one kind of values."""
        values = self.get(key, list, [], required=required)
        wrong = [value for value in values if type(value) is not kind]
        if wrong:
            self.complain(key, f"holds {wrong[0]!r}: write {KINDS[kind]} in each place")
        return tuple(value for value in values if type(value) is kind)

    def tables(self, key: str, required: bool = True) -> list["Table"]:
        """The tables of `[[key]]`, each named in messages by its own name or its place."""
        values = self.get(key, list, [], required=required)
        named = (value.get("name") if isinstance(value, Mapping) else None for value in values)
        return [
            Table(value, f"{key} {name or number}", self.problems)
            for number, (value, name) in enumerate(zip(values, named, strict=True), 1)
        ]

    def table(self, key: str) -> "Table":
        return Table(self.get(key, dict, {}), f"[{key}]", self.problems)

    def complain(self, key: str, sentence: str) -> None:
        self.problems.append(f"{self.where}: {key} {sentence}" if self.where else f"{key} {sentence}")

    def refuse_unknown(self) -> None:
        """Call when every known field was asked for."""
        for key in self.values.keys() - self.known:
            close = difflib.get_close_matches(key, self.known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(self.known))}"
            self.complain(key, f"is unknown: {hint}")
