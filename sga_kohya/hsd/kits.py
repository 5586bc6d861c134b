"""What the photos of one sub-folder are cut with: their settings, detector and upscaler, and a digest of all of it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sga_kohya.hsd.detect import DETECTORS, Detector
from sga_kohya.hsd.detectors.chain import Chain
from sga_kohya.hsd.detectors.options import Options, of_each
from sga_kohya.hsd.out.ledger import digest
from sga_kohya.hsd.photos.upscale import Upscaler, make_upscaler
from sga_kohya.hsd.settings.config import RUN_WIDE, HsdConfig
from sga_kohya.hsd.settings.config_file import to_layer

ELSEWHERE = ("device", "caption", "overrides", *RUN_WIDE)
"""Settings that change no slice, or that its caption or its near-duplicates show."""

HOW = ("api_key_env", "cache", "max_calls", "parallel", "timeout")
"""Options of detectors that say how it is asked, not what: a folder of kept replies grows without changing a slice."""


@dataclass(frozen=True, eq=False)
class Kit:
    """digest: of everything but the photo itself that its slices depend on."""

    config: HsdConfig
    detector: Detector
    upscaler: Upscaler
    digest: str


def make_kits(config: HsdConfig, photos: Path) -> dict[str, Kit]:
    """By the names of the overrides, "" for the rest. Equal detectors and upscalers are made once.

    Raises SgaError for what a detector or an upscaler cannot use, before any photo is read.
    """
    detectors: dict[str, Detector] = {}
    upscalers: dict[Path | None, Upscaler] = {}
    kits: dict[str, Kit] = {}
    for name in ("", *config.overrides):
        own = config.of(name)
        # Levels and mode too: some detectors make ready for each level that they will be asked for.
        key = _json([own.detectors, own.detector_options, own.device, _smallest(own), own.mode])
        if key not in detectors:
            detectors[key] = make_detector(own, photos)
        if own.upscale_model not in upscalers:
            upscalers[own.upscale_model] = make_upscaler(own)
        kits[name] = Kit(own, detectors[key], upscalers[own.upscale_model], settings_digest(own))
    return kits


def make_detector(config: HsdConfig, photos: Path) -> Detector:
    """The one that a configuration names, or the chain of several. Raises SgaError for options that it cannot use."""
    # A whole photo is one crop of the coarsest level, which nobody looks for.
    sought = {level: names for level, names in config.detectors.items() if level in config.detected}
    names = tuple(dict.fromkeys((*config.detector_names, *(name for own in sought.values() for name in own))))
    given, smallest = of_each(names, config.detector_options), _smallest(config)
    made = {}
    for name in names:
        levels = [level for level, own in sought.items() if name in own]
        options = Options(name, given[name], list(config.detectors), levels, config.device, smallest)
        if levels or given[name]:
            made[name] = DETECTORS[name](options, photos)
    if len(names) == 1:
        return made[names[0]]
    return Chain({level: [made[name] for name in own] for level, own in sought.items()})


def _smallest(config: HsdConfig) -> dict[str, int]:
    """By level, the side that its smallest slice has in the photo, where that is not enlarged more than is wanted."""
    sides = {level: min(map(min, level.targets(config.min_size)), default=0) for level in config.levels}
    return {level.name: round(side / (1 if level.own_scale else level.tau_up)) for level, side in sides.items()}


def settings_digest(config: HsdConfig) -> str:
    """A file that a setting names counts with its size and time, a folder with those of all files in it."""
    options = _what(config.detector_options)
    layer = {key: value for key, value in to_layer(config).items() if key not in ELSEWHERE}
    layer["detector"] = {"name": config.detector, **options}
    named = (Path(text) for text in _texts([str(config.upscale_model or ""), options]))
    return digest(_json([layer, [_state(path) for path in named]]).encode())


def _what(options: Mapping[str, object]) -> dict[str, object]:
    """Without the options in HOW, also those of one of several detectors."""
    return {
        key: _what(value) if isinstance(value, Mapping) else value
        for key, value in options.items()
        if key.rpartition(".")[2] not in HOW
    }


def _texts(value: object) -> Iterator[str]:
    """Every text in a setting, whatever it is nested in."""
    if isinstance(value, (str, Path)) and str(value):
        yield str(value)
    elif isinstance(value, (Mapping, list, tuple)):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(inner)


def _state(path: Path) -> list[tuple[str, int, int]]:
    try:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        found = [(file, file.stat()) for file in files if file.is_file()]
    except (OSError, ValueError):  # not every text is a path
        return []
    return [(file.name, stat.st_size, stat.st_mtime_ns) for file, stat in found]


def _json(value: object) -> str:
    return json.dumps(value, default=str)
