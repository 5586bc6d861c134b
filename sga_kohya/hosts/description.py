"""Seam: a dataset's description meets the trainer's schema. What that refuses is one sentence instead of a traceback.

Both trainers check it by voluptuous in a `BlueprintGenerator.generate` of theirs, before a model is loaded, and with it
those settings of the training that say the same of all datasets. What it takes passes unchanged; the doctor asks too.
"""

import argparse
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sga_kohya.errors import SgaError
from sga_kohya.hosts.seam import Seam
from sga_kohya.hosts.toml_keys import written_as
from sga_kohya.kit.hints import closest
from sga_kohya.training.session import Session

_SAID_AT_ONCE = 5
_UNKNOWN, _MISSING = "extra keys not allowed", "required key not provided"
_EXPECTED = {"expected int": int, "expected float": float, "expected str": str, "expected bool": bool}
_EXPECTED |= {"expected a list": list, "expected dict": dict, "expected a dictionary": dict}


def seam(target: str, host: str, innermost: str) -> Seam:
    """target: the trainer's function. innermost: its table that holds what is in no other, such as datasets.subsets."""

    def replace(original: Callable, session: Session) -> Callable:
        @functools.wraps(original)
        def generate(self: Any, user_config: Any, argparse_namespace: argparse.Namespace, **runtime: Any) -> Any:
            from voluptuous import Invalid  # the trainer has it

            try:
                return original(self, user_config, argparse_namespace, **runtime)
            except Invalid as error:
                schema = _Schema(self.sanitizer, host, innermost, user_config, argparse_namespace)
                raise SgaError(schema.refused(getattr(error, "errors", [error]))) from None

        return generate

    return Seam("description", target, ("self", "user_config", "argparse_namespace"), replace)


class _Schema:
    """What a trainer's sanitizer was given, and which keys it knows in which table."""

    def __init__(self, sanitizer: Any, host: str, innermost: str, described: Any, settings: argparse.Namespace):
        self.host, self.innermost, self.described, self.settings = host, innermost, described, settings
        self.general, self.argparse = sanitizer.general_schema, sanitizer.argparse_schema
        self.known = {str(key) for table in vars(sanitizer).values() if isinstance(table, dict) for key in table}

    def refused(self, errors: Sequence[Any]) -> str:
        """What voluptuous says, of the file or else of the settings; first what is missing, as it may be the cause."""
        texts = list(dict.fromkeys(map(self._one, sorted(errors, key=lambda error: error.error_message != _MISSING))))
        more = len(texts) - _SAID_AT_ONCE
        told = "; ".join(texts[:_SAID_AT_ONCE]) + (f"; and {more} more like these" if more > 0 else "")
        return told if self._in_settings(errors[0]) else f"--dataset_config {self.settings.dataset_config}: {told}"

    def _in_settings(self, error: Any) -> bool:
        """Where keys that nobody knows are passed over."""
        return error.error_message != _UNKNOWN and error.path[0] not in ("general", "datasets")

    def _one(self, error: Any) -> str:
        """With its place as a reader of the file counts: datasets.1.subsets.2.num_repeats."""
        path, message = error.path, error.error_message or ""
        where = ".".join(str(step + 1) if isinstance(step, int) else str(step) for step in path)
        if message == _UNKNOWN:
            return f"{where}: {self.host} knows no such key there; {self._instead(str(path[-1]), path[:-1])}"
        if message == _MISSING:
            return f"{where} is missing; write it"
        value = _value_at(vars(self.settings) if self._in_settings(error) else self.described, path)
        shown = "" if isinstance(value, Mapping) else f" = {json.dumps(value, default=str)}"
        return f"{where}{shown}: {self._remedy(str(path[-1]), value, message)}"

    def _instead(self, key: str, table: Sequence[Any]) -> str:
        if key not in self.known:
            close = closest(key, self.known, cutoff=0.75)  # image_dir and image_directory, each of one trainer
            return f"did you mean {close}?" if close else "leave it out"
        here = ".".join(step for step in table if isinstance(step, str))
        home = f"[[{self.innermost}]]" if here != self.innermost else ""
        home = "the settings of the training" if key in self.argparse else home
        home = "[general] or [[datasets]]" if key in self.general else home
        return "leave it out" + (f", or move it to {home}" if home else "")

    def _remedy(self, key: str, value: Any, message: str) -> str:
        kind = _EXPECTED.get(message)
        if kind is int and key.endswith("resolution"):
            return "write a whole number, or two in [ ]: width, height"
        if kind is None:
            return message.partition(" / ")[0] or "write two numbers in [ ]"
        return written_as(kind, value)


def _value_at(tables: Any, path: list[Any]) -> Any:
    for step in path:
        tables = tables[step]
    return tables
