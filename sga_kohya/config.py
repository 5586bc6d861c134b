"""SgaConfig: every --sga_* option, read once from the command line and the kohya TOML, validated before any long work.

The host reads its own options; it is only told that ours exist (`add_arguments`), so that its parser accepts them.
"""

import argparse
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from sga_kohya.errors import SgaError
from sga_kohya.kit.fields import Fields
from sga_kohya.kit.files import user_path
from sga_kohya.kit.hints import closest, did_you_mean
from sga_kohya.kit.values import boolean, number, one_of, reads, whole
from sga_kohya.version import __version__
from sga_kohya.words import (
    CAGRAD,
    DEFAULT_LABELS,
    DEFAULT_SHIFTS,
    LINEAR,
    PATH_NAMES,
    PCGRAD,
    REDUCTIONS,
    SNR_GAMMA,
    TIMESTEP_SHIFT,
    UPSTREAM,
)

_NO_SURGERY = "none"


def _as_text(value: object) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{label}:{number:g}" for label, number in value.items())
    if isinstance(value, tuple):
        return ",".join(f"{item:g}" if isinstance(item, float) else item for item in value)
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


@reads("write two or more different names from coarse to fine, such as macro,meso,micro")
def _labels(value: object) -> tuple[str, ...]:
    words = value if isinstance(value, (list, tuple)) else str(value).split(",")
    labels = tuple(word.strip() if isinstance(word, str) else "" for word in words)
    if len(labels) < 2 or len(set(labels)) != len(labels) or not all(map(_can_be_a_label, labels)):
        raise ValueError
    return labels


def _can_be_a_label(word: str) -> bool:
    """Whether `label:number,label:number` can hold it, and a line of the plan."""
    return word.isprintable() and re.fullmatch("[^,:]+", word) is not None


@reads("write granularity:number pairs without spaces, such as macro:0.5,meso:0,micro:-0.5")
def _table(value: object) -> Mapping[str, float]:
    """`macro:0.5,meso:0,micro:-0.5`, or a TOML table of the same."""
    pairs = list(value.items() if isinstance(value, Mapping) else (part.split(":") for part in str(value).split(",")))
    table = {str(label).strip(): number()(value) for label, value in pairs}
    if len(table) < len(pairs):
        raise SgaError("name each granularity once")
    return table


@reads("write hours above 0, such as 21 or 0.5")
def _hours(value: object) -> float:
    hours = float(str(value))
    if not 0 < hours < math.inf:
        raise ValueError
    return hours


def _list_of_hours(value: object) -> tuple[float, ...]:
    items = value if isinstance(value, (list, tuple)) else str(value).split(",")
    return tuple(sorted(set(map(_hours, items))))


@reads("there is no such file")
def _file(value: object) -> Path:
    path = user_path(value, "the file")
    if not path.is_file():
        raise ValueError
    return path


@reads("write an existing folder, or a .png, .jpg or .webp file in one")
def _picture(value: object) -> Path:
    path = user_path(value, "the file")
    if path.is_dir():
        path /= "sga_timesteps.png"
    if path.suffix.lower() not in (".png", ".jpg", ".webp") or not path.absolute().parent.is_dir():
        raise ValueError
    return path


def _option(default: Any, read: Callable[[object], Any], help: str) -> Any:
    metadata = {"read": read, "help": f"{help} (default: {_as_text(default) or 'none'})"}
    if isinstance(default, dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class SgaConfig:
    """The settings of one run. Field `x` is the option `--sga_x` and the TOML key `sga_x`; `enabled` is `--sga`."""

    enabled: bool = _option(True, boolean, "the whole of SGA: true through our doors, false in a patched checkout")
    tuples: bool = _option(True, boolean, "slices of one photo train in the same optimizer step (Eq. 6)")
    modulation: bool = _option(True, boolean, "noise levels follow the slice's granularity (Eq. 29-31)")
    granularities: tuple[str, ...] = _option(DEFAULT_LABELS, _labels, "the labels in use, coarse to fine")
    timestep_shift: Mapping[str, float] = _option(
        DEFAULT_SHIFTS, _table, "Delta of Eq. 29, added to the noise level's logit"
    )
    timestep_shift_form: str = _option(
        "logit", one_of(("logit", UPSTREAM)), "logit: sigmoid(s*z + Delta), Eq. 30; upstream: sigmoid(s*(z + Delta))"
    )
    snr_gamma: Mapping[str, float] = _option(
        {"macro": 4.0, "meso": 5.0, "micro": 7.0}, _table, "Gamma of Eq. 32, Min-SNR's threshold; SD and SDXL"
    )
    flow_snr_weight: bool = _option(False, boolean, "Min-SNR by sga_snr_gamma for flow-matching models as well")
    show_timesteps: Path | None = _option(None, _picture, "draw noise levels by granularity into this file and end")
    path: str = _option(LINEAR, one_of(PATH_NAMES), f"from latents to noise: {', '.join(PATH_NAMES)}; experimental")
    loss_weight: Mapping[str, float] = _option({}, _table, "lambda_k of Eq. 6; 1 for a label not named")
    tuple_reduction: str = _option(
        "mean", one_of(REDUCTIONS), "mean: Eq. 6, sum: Algorithm 2, constant: over all levels"
    )
    groups_per_step: int | None = _option(None, whole(1), "groups in a tuple step; the batch size if not given")
    probe_every: int = _option(0, whole(0), "measure how granularities' gradients interfere every so many steps")
    gradient_surgery: str = _option(
        _NO_SURGERY,
        one_of((_NO_SURGERY, PCGRAD, CAGRAD)),
        f"between granularities, at the end of each tuple step: {PCGRAD} or {CAGRAD}",
    )
    save_at_hours: tuple[float, ...] = _option((), _list_of_hours, "save at the steps nearest to these training hours")
    stop_at_hours: float | None = _option(None, _hours, "end training at the step nearest to this training hour")
    manifest: Path | None = _option(None, _file, "manifest of the slices; found beside the images if not given")

    def __post_init__(self) -> None:
        _raise(list(self._contradictions()))

    def _contradictions(self) -> Iterator[str]:
        """What is wrong with values that can each be read."""
        for name, table in self._tables().items():
            for label in table:
                if label not in self.granularities:
                    yield (
                        f"{name} = {_as_text(table)}: {label!r} is none of the granularities; "
                        f"write it for yours: {self._for_each(0)}"
                    )
        yield from self._unmeasured()
        for label, weight in self.loss_weight.items():
            if weight < 0:
                yield f"sga_loss_weight = {label}:{weight:g}: lambda_k must be at least 0"
        for label, gamma in self.snr_gamma.items():
            if gamma <= 0:
                yield f"sga_snr_gamma = {label}:{gamma:g}: Gamma must be above 0; 5 is plain Min-SNR's"
        if self.surgery and not self.tuples:
            yield (
                f"sga_gradient_surgery = {self.gradient_surgery} works on the granularities of a tuple step: leave out "
                "--sga_tuples=false"
            )
        if self.show_timesteps and not self.enabled:
            yield "sga_show_timesteps draws what SGA will do, so switch it on: --sga"

    def _unmeasured(self) -> Iterator[str]:
        """Labels of one's own, without a table of one's own: there is no default for them."""
        without = [label for label in self.granularities if label not in DEFAULT_SHIFTS]
        if self.modulation and without and not self._modulating():
            yield (
                f"sga_granularities = {','.join(self.granularities)}: nobody has measured which noise levels suit "
                f"{', '.join(without)}, so there is no default. Give Delta for your labels, such as "
                f"--sga_timestep_shift {self._for_each(0)} (above 0 to noise, below 0 to detail, 0 as it is; of U-Nets "
                f"--sga_snr_gamma {self._for_each(5)}), or train without by --sga_modulation=false"
            )

    def _for_each(self, number: int) -> str:
        return ",".join(f"{label}:{number}" for label in self.granularities)

    def _tables(self) -> dict[str, Mapping[str, float]]:
        """The tables whose labels count: those that were given, and Delta's default for some of its labels."""
        modulating = self._modulating()
        if self.modulation and not modulating and set(self.granularities) <= set(DEFAULT_SHIFTS):
            modulating = {"sga_timestep_shift": self.timestep_shift}
        return {"sga_loss_weight": self.loss_weight, **modulating}

    def _modulating(self) -> dict[str, Mapping[str, float]]:
        """Delta and Gamma, as far as they are not the defaults. A model uses one of the two, so one is enough."""
        if not self.modulation:
            return {}
        default: dict[str, Any] = SgaConfig.__dataclass_fields__
        pair = {f"sga_{name}": getattr(self, name) for name in (TIMESTEP_SHIFT, SNR_GAMMA)}
        return {key: table for key, table in pair.items() if table != default[key[4:]].default_factory()}

    @property
    def active(self) -> bool:
        """Whether anything differs from stock sd-scripts, be it only when it saves and stops."""
        timed = bool(self.save_at_hours) or self.stop_at_hours is not None
        watched = self.probe_every > 0 or self.show_timesteps is not None
        return self.plans_tuples or self.modulates or self.leaves_line or (self.enabled and (timed or watched))

    @property
    def plans_tuples(self) -> bool:
        """Whether slices of one photo train in the same optimizer step."""
        return self.enabled and self.tuples

    @property
    def modulates(self) -> bool:
        """Whether noise levels, or weights by noise level, follow the granularity."""
        return self.enabled and self.modulation

    @property
    def leaves_line(self) -> bool:
        """Whether the path from latents to noise is another than the stock one."""
        return self.enabled and self.path != LINEAR

    @property
    def surgery(self) -> str:
        """The method of gradient surgery, "" for none."""
        return "" if self.gradient_surgery == _NO_SURGERY else self.gradient_surgery

    def weight(self, label: str | None) -> float:
        """lambda_k of Eq. 6. label: a granularity, None for a sample without."""
        return self.loss_weight.get(label or "", 1.0)

    def delta(self, label: str | None) -> float:
        """What is added to the logit of a noise level, Eq. 29; 0 where nothing is."""
        return self.timestep_shift.get(label or "", 0.0) if self.modulates else 0.0

    def gamma(self, label: str | None) -> float | None:
        """The threshold of Min-SNR, Eq. 32; None where there is none of ours."""
        return self.snr_gamma.get(label or "") if self.modulates else None

    @classmethod
    def from_options(cls, options: Mapping[str, object], enabled: bool = True) -> "SgaConfig":
        """Build from TOML keys and command line, merged as by read_options. Raises one SgaError naming every option
        that cannot be read."""
        names = option_names()
        problems = [f"unknown option {key}: {hint}" for key in options if (hint := _meant(key, names))]
        given = Fields(options, "", problems).given({key: option.metadata["read"] for key, option in names.items()})
        _raise(problems)
        return cls(**{"enabled": enabled, **{names[key].name: value for key, value in given.items()}})

    def metadata(self) -> dict[str, str]:
        """The settings, and the version that read them, as `ss_sga_*` strings for a saved model's header."""
        texts = {f"ss_{key}": _as_text(getattr(self, option.name)) for key, option in option_names().items()}
        for option in ("manifest", "show_timesteps", "probe_every"):
            del texts[f"ss_sga_{option}"]  # paths on somebody's disk, and what leaves the model as it is
        if self.path != LINEAR:
            texts["ss_sga_path_note"] = "experimental: sample along this path; stock samplers and decoders do not fit"
        return {"ss_sga_version": __version__, **{key: text for key, text in texts.items() if text}}


def _raise(problems: list[str]) -> None:
    """One error for all of them, if there are any."""
    if len(problems) > 1:
        numbered = (f"({number}) {problem}" for number, problem in enumerate(problems, 1))
        raise SgaError(f"{len(problems)} options are wrong: {'; '.join(numbered)}")
    if problems:
        raise SgaError(problems[0])


def is_ours(key: str) -> bool:
    """Whether a key of a TOML is meant for us, however it is spelt: `SGA`, `sga-tuples`, `ss_sga_path`, `gsa_path`."""
    word = _plain(key)
    # No option of sd-scripts comes closer to one of ours than by 0.875 (show_timesteps).
    return word.partition("_")[0] in ("sga", "gsa", "sag") or bool(closest(word, option_names(), cutoff=0.9))


def _plain(key: str) -> str:
    return re.sub(r"[\W_]+", "_", key.lower()).strip("_").removeprefix("ss_")


def _meant(key: str, names: Mapping[str, Any]) -> str:
    """What to write for a key that is meant for us and is none of ours, else "". A dotted key is one that the TOML has
    in a place where nobody reads it (options.py)."""
    if key in names or not any(map(is_ours, key.split("."))):
        return ""
    last = key.rpartition(".")[2]
    if last in names:
        return f"write {last} at the top of the TOML, where the trainer reads it"
    if last in ("enabled", "enable"):
        return "did you mean sga, at the top of the TOML?"
    return did_you_mean(_plain(last if is_ours(last) else f"sga_{last}"), names)


def option_names() -> dict[str, Any]:
    """Option name -> dataclass field."""
    return {"sga" if f.name == "enabled" else f"sga_{f.name}": f for f in fields(SgaConfig)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell a host's parser of our options. Defaults stay None: SgaConfig has been built from the same words."""
    group = parser.add_argument_group("SGA (sga_kohya)", "Semantic Granularity Alignment; see sga_kohya's README")
    for key, option in option_names().items():
        # A bare --sga or --sga_tuples means true, as for the host's own switches.
        switch: dict[str, Any] = {"nargs": "?", "const": "true"} if option.metadata["read"] is boolean else {}
        group.add_argument(f"--{key}", default=None, help=option.metadata["help"], **switch)
