"""What the photos of one sub-folder are cut and captioned with, and digests of all of it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sga_kohya.errors import SgaError
from sga_kohya.hsd.captioners.captioner import CAPTIONERS, Captioner
from sga_kohya.hsd.captioners.captioning import Captioning, make_captioning
from sga_kohya.hsd.detect import DETECTORS, Detector, means_of
from sga_kohya.hsd.detectors.chain import Chain
from sga_kohya.hsd.detectors.options import Options, of_each
from sga_kohya.hsd.masks.sources import DETECTOR
from sga_kohya.hsd.out.files import digest
from sga_kohya.hsd.photos.upscale import Upscaler, make_upscaler
from sga_kohya.hsd.settings.config import RUN_WIDE, HsdConfig
from sga_kohya.hsd.settings.config_file import to_layer

CAPTION_SETTINGS = ("captioner", "drop_tags")
"""With the levels' `caption_prefix`: they change captions alone, for which nothing is cut again."""
ELSEWHERE = ("device", "caption", "overrides", *CAPTION_SETTINGS, *RUN_WIDE)
"""Settings that change no slice, or that its caption or its near-duplicates show."""

HOW = ("api_key_env", "cache", "max_calls", "parallel", "timeout")
"""Options that say how a model is asked, not what: a folder of kept replies grows without changing a slice."""
CAPTION_FORMAT = 1
"""Raise it when the same settings give other captions than before: earlier ones are then written anew."""


@dataclass(frozen=True, eq=False)
class Kit:
    """digest: of everything but the photo itself that its slices depend on; captions_digest: the same of captions."""

    config: HsdConfig
    detector: Detector
    upscaler: Upscaler
    captioning: Captioning
    digest: str
    captions_digest: str


def make_kits(config: HsdConfig, photos: Path) -> dict[str, Kit]:
    """By the names of the overrides, "" for the rest. Equal detectors, upscalers and captioners are made once.

    Raises SgaError for what one of them cannot use, before any photo is read.
    """
    detectors: dict[str, Detector] = {}
    upscalers: dict[Path | None, Upscaler] = {}
    captioners: dict[str, Captioner] = {}
    kits: dict[str, Kit] = {}
    for name in ("", *config.overrides):
        own = config.of(name)
        # Levels and mode too: some detectors make ready for each level that they will be asked for.
        key = _json([own.detectors, own.detector_options, own.device, _smallest(own), own.mode])
        if key not in detectors:
            detectors[key] = make_detector(own, photos)
        if own.upscale_model not in upscalers:
            upscalers[own.upscale_model] = make_upscaler(own)
        words = _json([own.captioner, own.captioner_options, own.device, list(own.detectors)])
        captioning = make_captioning(own, captioners.get(words), photos)
        captioners[words] = captioning.captioner
        parts = detectors[key], upscalers[own.upscale_model], captioning
        cut_by = settings_digest(own, means_of(detectors[key]))
        kits[name] = Kit(own, *parts, cut_by, captions_digest(own))
    return kits


def make_detector(config: HsdConfig, photos: Path) -> Detector:
    """The one that a configuration names, or the chain of several. Raises SgaError for options that it cannot use."""
    # A whole photo is one crop of the coarsest level, which nobody looks for.
    sought = {level: names for level, names in config.detectors.items() if level in config.detected}
    names = tuple(dict.fromkeys((*config.detector_names, *(name for own in sought.values() for name in own))))
    given, smallest, masks = of_each(names, config.detector_options), _smallest(config), config.masks == DETECTOR
    made: dict[str, Detector] = {}
    for name in names:
        levels = [level for level, own in sought.items() if name in own]
        options = Options(name, given[name], list(config.detectors), levels, config.device, "detector", masks, smallest)
        if levels or given[name]:
            made[name] = DETECTORS.make(name, options, photos)
            if masks and not getattr(made[name], "draws_masks", False):
                raise SgaError(
                    f"masks detector: detector {name} draws none with these options: use onnx or yolo with a "
                    "segmentation model (-seg), or give a folder of masks"
                )
    if len(names) == 1:
        return made[names[0]]
    return Chain({level: [made[name] for name in own] for level, own in sought.items()})


def _smallest(config: HsdConfig) -> dict[str, int]:
    """By level, the side that its smallest slice has in the photo, where that is not enlarged more than is wanted."""
    sides = {level: min(map(min, level.targets(config.min_size)), default=0) for level in config.levels}
    return {level.name: round(side / (1 if level.own_scale else level.tau_up)) for level, side in sides.items()}


def settings_digest(config: HsdConfig, means: str = "") -> str:
    """means: of the detector, see detect.means_of. A file that a setting names counts with its size and time, one's
    own function's too, a folder with those of all files in it."""
    options = _what(config.detector_options)
    layer = {key: value for key, value in to_layer(config).items() if key not in ELSEWHERE}
    layer["detector"] = {"name": config.detector, **options}
    layer["level"] = {
        name: {key: value for key, value in table.items() if key != "caption_prefix"}
        for name, table in layer["level"].items()
    }
    names = dict.fromkeys(name for names in config.detectors.values() for name in names)
    own = [source for name in names if (source := DETECTORS.source(name))]
    parts = [layer, _states([str(config.upscale_model or ""), options, own])]
    return digest(_json([*parts, means] if means else parts).encode())


def captions_digest(config: HsdConfig) -> str:
    """Of what captions depend on, without the photo's own; files as in `settings_digest`, one's own function's too."""
    options = _what(config.captioner_options)
    prefixes = {level.name: level.caption_prefix for level in config.levels}
    settings = [CAPTION_FORMAT, config.captioner, options, config.drop_tags, prefixes]
    return digest(_json([settings, _states([CAPTIONERS.source(config.captioner) or "", options])]).encode())


def _states(settings: object) -> list[list[tuple[str, int, int]]]:
    """Of every file and folder that settings name."""
    return [_state(Path(text)) for text in _texts(settings)]


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
