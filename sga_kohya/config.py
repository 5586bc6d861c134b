"""SgaConfig: every --sga_* option, read once from the command line and the kohya TOML, validated before any long work.

The host reads its own options; it is only told that ours exist (`add_arguments`), so that its parser accepts them.
"""

import argparse
import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from sga_kohya.errors import SgaError
from sga_kohya.granularity import DEFAULT_LABELS
from sga_kohya.version import __version__

REDUCTIONS = ("mean", "sum", "constant")
SURGERIES = ("none", "pcgrad", "cagrad")
SHIFT_FORMS = ("logit", "upstream")
PATHS = ("linear", "shell", "spherical-linear", "spherical-slerp")


def _as_text(value: object) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{label}:{number:g}" for label, number in value.items())
    if isinstance(value, tuple):
        return ",".join(f"{item:g}" if isinstance(item, float) else item for item in value)
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    words = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if str(value).lower() not in words:
        raise SgaError("write true or false")
    return words[str(value).lower()]


def _labels(value: object) -> tuple[str, ...]:
    labels = tuple(value) if isinstance(value, (list, tuple)) else tuple(str(value).split(","))
    if len(labels) < 2 or len(set(labels)) != len(labels) or not all(isinstance(x, str) and x.strip() for x in labels):
        raise SgaError("write two or more different names from coarse to fine, such as macro,meso,micro")
    return tuple(label.strip() for label in labels)


def _table(value: object) -> Mapping[str, float]:
    """`macro:0.5,meso:0,micro:-0.5`, or a TOML table of the same."""
    try:
        pairs = value.items() if isinstance(value, Mapping) else (part.split(":") for part in str(value).split(","))
        table = {str(label).strip(): float(number) for label, number in pairs}
    except (TypeError, ValueError):
        raise SgaError("write granularity:number pairs without spaces, such as macro:0.5,meso:0,micro:-0.5") from None
    if not all(math.isfinite(number) for number in table.values()):
        raise SgaError("every number must be finite")
    return table


def _one_of(words: tuple[str, ...]) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if value not in words:
            raise SgaError(f"write one of {', '.join(words)}")
        return str(value)

    return parse


def _count(value: object) -> int:
    try:
        number = int(str(value))
    except ValueError:
        number = 0
    if number < 1:
        raise SgaError("write a whole number from 1")
    return number


def _count_or_none(value: object) -> int:
    return 0 if str(value) == "0" else _count(value)


def _hours(value: object) -> float:
    try:
        hours = float(str(value))
    except ValueError:
        hours = 0.0
    if not 0 < hours < math.inf:
        raise SgaError("write hours above 0, such as 21 or 0.5")
    return hours


def _list_of_hours(value: object) -> tuple[float, ...]:
    words = value if isinstance(value, (list, tuple)) else str(value).split(",")
    return tuple(sorted(set(map(_hours, words))))


def _file(value: object) -> Path:
    path = Path(str(value)).expanduser()
    if not path.is_file():
        raise SgaError("there is no such file")
    return path


def _picture(value: object) -> Path:
    path = Path(str(value)).expanduser()
    if path.is_dir():
        path /= "sga_timesteps.png"
    if path.suffix.lower() not in (".png", ".jpg", ".webp") or not path.absolute().parent.is_dir():
        raise SgaError("write an existing folder, or a .png, .jpg or .webp file in one")
    return path


def _option(default: Any, parse: Callable[[object], Any], help: str) -> Any:
    metadata = {"parse": parse, "help": f"{help} (default: {_as_text(default) or 'none'})"}
    if isinstance(default, dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class SgaConfig:
    """The settings of one run. Field `x` is the option `--sga_x` and the TOML key `sga_x`; `enabled` is `--sga`."""

    enabled: bool = _option(True, _boolean, "the whole of SGA: true through our doors, false in a patched checkout")
    tuples: bool = _option(True, _boolean, "slices of one photo train in the same optimizer step (Eq. 6)")
    modulation: bool = _option(True, _boolean, "noise levels follow the slice's granularity (Eq. 29-31)")
    granularities: tuple[str, ...] = _option(DEFAULT_LABELS, _labels, "the labels in use, coarse to fine")
    timestep_shift: Mapping[str, float] = _option(
        {"macro": 0.5, "meso": 0.0, "micro": -0.5}, _table, "Delta of Eq. 29, added to the noise level's logit"
    )
    timestep_shift_form: str = _option(
        "logit", _one_of(SHIFT_FORMS), "logit: sigmoid(s*z + Delta), Eq. 30; upstream: sigmoid(s*(z + Delta))"
    )
    snr_gamma: Mapping[str, float] = _option(
        {"macro": 4.0, "meso": 5.0, "micro": 7.0}, _table, "Gamma of Eq. 32, Min-SNR's threshold; SD and SDXL"
    )
    flow_snr_weight: bool = _option(False, _boolean, "Min-SNR by sga_snr_gamma for flow-matching models as well")
    show_timesteps: Path | None = _option(None, _picture, "draw noise levels by granularity into this file and end")
    path: str = _option("linear", _one_of(PATHS), f"from latents to noise: {', '.join(PATHS)}; experimental")
    loss_weight: Mapping[str, float] = _option({}, _table, "lambda_k of Eq. 6; 1 for a label not named")
    tuple_reduction: str = _option(
        "mean", _one_of(REDUCTIONS), "mean: Eq. 6, sum: Algorithm 2, constant: over all levels"
    )
    groups_per_step: int | None = _option(None, _count, "groups in a tuple step; the batch size if not given")
    probe_every: int = _option(0, _count_or_none, "measure how granularities' gradients interfere every so many steps")
    gradient_surgery: str = _option(
        "none", _one_of(SURGERIES), "between granularities, at the end of each tuple step: pcgrad or cagrad"
    )
    save_at_hours: tuple[float, ...] = _option((), _list_of_hours, "save at the steps nearest to these training hours")
    stop_at_hours: float | None = _option(None, _hours, "end training at the step nearest to this training hour")
    manifest: Path | None = _option(None, _file, "manifest of the slices; found beside the images if not given")

    def __post_init__(self) -> None:
        for name, table in self._tables().items():
            for label in table:
                if label not in self.granularities:
                    raise SgaError(
                        f"{name} = {_as_text(table)}: {label!r} is none of the granularities; "
                        f"write it for yours: {','.join(f'{label}:0' for label in self.granularities)}"
                    )
        for label, weight in self.loss_weight.items():
            if weight < 0:
                raise SgaError(f"sga_loss_weight = {label}:{weight:g}: lambda_k must be at least 0")
        for label, gamma in self.snr_gamma.items():
            if gamma <= 0:
                raise SgaError(f"sga_snr_gamma = {label}:{gamma:g}: Gamma must be above 0; 5 is plain Min-SNR's")
        if self.gradient_surgery != "none" and not self.tuples:
            raise SgaError(
                f"sga_gradient_surgery = {self.gradient_surgery} works on the granularities of a tuple step: leave out "
                "--sga_tuples=false"
            )
        if self.show_timesteps and not self.enabled:
            raise SgaError("sga_show_timesteps draws what SGA will do, so switch it on: --sga")

    def _tables(self) -> dict[str, Mapping[str, float]]:
        """The tables whose labels count. A model uses Delta or Gamma, so labels of one's own need one of the two."""
        tables = {"sga_loss_weight": self.loss_weight}
        if self.modulation:
            default: dict[str, Any] = SgaConfig.__dataclass_fields__
            pair = {f"sga_{name}": getattr(self, name) for name in ("timestep_shift", "snr_gamma")}
            given = {key: table for key, table in pair.items() if table != default[key[4:]].default_factory()}
            tables |= given or {"sga_timestep_shift": self.timestep_shift}
        return tables

    @property
    def active(self) -> bool:
        """Whether anything differs from stock sd-scripts, be it only when it saves and stops."""
        timed = bool(self.save_at_hours) or self.stop_at_hours is not None
        changed = self.tuples or self.modulation or self.path != "linear"
        watched = self.probe_every > 0 or self.show_timesteps is not None
        return self.enabled and (changed or timed or watched)

    @classmethod
    def from_options(cls, options: Mapping[str, object], enabled: bool = True) -> "SgaConfig":
        """Build from TOML keys and command line, merged as by read_options. Raises SgaError naming the option."""
        names = option_names()
        for key in options:
            if key.startswith("sga_") and key not in names:
                close = difflib.get_close_matches(key, names, n=1)
                hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(names)}"
                raise SgaError(f"unknown option {key}: {hint}")
        values: dict[str, Any] = {"enabled": enabled}
        for key, option in names.items():
            if key in options:
                try:
                    values[option.name] = option.metadata["parse"](options[key])
                except SgaError as error:
                    raise SgaError(f"{key} = {options[key]!r}: {error}") from None
        return cls(**values)

    def metadata(self) -> dict[str, str]:
        """The settings, and the version that read them, as `ss_sga_*` strings for a saved model's header."""
        texts = {f"ss_{key}": _as_text(getattr(self, option.name)) for key, option in option_names().items()}
        for option in ("manifest", "show_timesteps", "probe_every"):
            del texts[f"ss_sga_{option}"]  # paths on somebody's disk, and what leaves the model as it is
        if self.path != "linear":
            texts["ss_sga_path_note"] = "experimental: sample along this path; stock samplers and decoders do not fit"
        return {"ss_sga_version": __version__, **{key: text for key, text in texts.items() if text}}


def option_names() -> dict[str, Any]:
    """Option name -> dataclass field."""
    return {"sga" if f.name == "enabled" else f"sga_{f.name}": f for f in fields(SgaConfig)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell a host's parser of our options. Defaults stay None: SgaConfig has been built from the same words."""
    group = parser.add_argument_group("SGA (sga_kohya)", "Semantic Granularity Alignment; see sga_kohya's README")
    for key, option in option_names().items():
        # A bare --sga or --sga_tuples means true, as for the host's own switches.
        switch: dict[str, Any] = {"nargs": "?", "const": "true"} if option.metadata["parse"] is _boolean else {}
        group.add_argument(f"--{key}", default=None, help=option.metadata["help"], **switch)
    group.add_argument("--sd_scripts", default=None, help="folder of the sd-scripts checkout")
