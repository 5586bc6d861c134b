"""Settings in TOML: presets, files that extend them, overrides for sub-folders, the command line over all of them.

Layers are merged as tables, and only the result is built into an HsdConfig, so that every value is checked once,
wherever it came from.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import toml

from sga_kohya.errors import SgaError
from sga_kohya.hsd.clips.labels import DEFAULT_LABELS, parse_labels
from sga_kohya.hsd.cut.sizes import BUCKET_STEPS
from sga_kohya.hsd.roles import role_of
from sga_kohya.hsd.settings.config import BY_ROLE, REGIONS, ConfigError, HsdConfig, LevelConfig
from sga_kohya.hsd.settings.layers import (
    FINER_ONLY,
    SHARED,
    Layer,
    absolute,
    level_names,
    merge,
    read_file,
    read_preset,
    tables_of,
)
from sga_kohya.kit.sealed import sealed

CONFIG_TOML = "hsd_config.toml"
PLAIN = (
    *("mode", "detector", "detector_options", "device", "duplicate_overlap", "near_duplicates", "min_size", "format"),
    *("masks", "caption", "captioner", "captioner_options", "drop_tags", "batch_size"),
    *("clips", "clip_fps", "clip_frames", "clip_resolution", "clip_segments", "clip_shots"),
)
"""Keys of a layer that are fields of an HsdConfig as they are."""
HEADER = "# What this folder was made with. To make it again: python -m sga_kohya.hsd PHOTOS OUT --config THIS_FILE\n"


def load_config(preset: str = "", file: Path | None = None, command_line: Mapping[str, Any] | None = None) -> HsdConfig:
    """preset < what the file extends < the file < its overrides < command_line (a layer).

    Raises one SgaError that names every problem.
    """
    problems: list[str] = []
    layer = read_preset(preset, problems) if preset else {}
    if file is not None:
        layer = merge(layer, read_file(file, problems))
    config = build(layer, command_line or {}, problems)
    if problems:
        raise SgaError("; ".join(dict.fromkeys(problems)))
    return config


def build(layer: Mapping[str, Any], command_line: Mapping[str, Any], problems: list[str]) -> HsdConfig:
    """The configuration of merged layers; what is wrong goes to `problems`, and the result is then of no use."""
    overrides = tables_of(layer, "overrides")
    base = {key: value for key, value in layer.items() if key != "overrides"}
    names = level_names(base)
    problems += [f"level.{name}: not among levels {names}" for name in tables_of(base, "level") if name not in names]
    everywhere: list[str] = []
    config = _config(merge(base, command_line), everywhere)
    problems += everywhere
    built = {}
    for folder in overrides:
        own = dict(base)
        found: list[str] = []
        # The override of an outer folder holds in the folders below it.
        for outer in sorted((outer for outer in overrides if _is_below(folder, outer)), key=len):
            own = merge(own, overrides[outer])
        built[folder] = _config(merge(own, command_line), found)
        problems += [f'overrides."{folder}": {problem}' for problem in found if problem not in everywhere]
    try:
        return config if problems else replace(config, overrides=built)
    except ConfigError as error:
        problems += error.problems
        return config


def _config(layer: Layer, problems: list[str]) -> HsdConfig:
    """Without overrides."""
    levels = _levels(layer)
    settings = {"min_size": _min_size(levels), **{key: layer[key] for key in PLAIN if key in layer}}
    iou = layer.get("iou")
    try:
        return HsdConfig(
            levels=levels,
            redundant_iou=None if iou is None else {tuple(name.split("/")): v for name, v in dict(iou).items()},
            export=tuple(layer.get("export", ())),
            clip_labels=parse_labels(layer.get("clip_labels", DEFAULT_LABELS)),
            upscale_model=Path(str(layer["upscale_model"])) if layer.get("upscale_model") else None,
            **settings,
        )
    except ConfigError as error:
        problems += error.problems
        return HsdConfig()


def _levels(layer: Layer) -> tuple[LevelConfig, ...]:
    levels, names = [], level_names(layer)
    for rank, name in enumerate(names):
        settings = dict(BY_ROLE[role_of(name, names) if rank else "macro"])
        settings |= {key: layer[key] for key in SHARED if key in layer and (rank or key not in FINER_ONLY)}
        if rank == 0:
            settings["max_slices"] = REGIONS if layer.get("mode") == "split" else 1
        settings |= tables_of(layer, "level").get(name, {})
        if "sizes" in settings:
            settings["sizes"] = tuple(map(tuple, settings["sizes"]))
        levels.append(LevelConfig(name, **settings))
    return tuple(levels)


def _min_size(levels: tuple[LevelConfig, ...]) -> int:
    """Where nobody says it: half the smallest resolution, at most the usual, so that not every slice is a square."""
    half = min((level.resolution for level in levels), default=0) // 2
    return min(HsdConfig.min_size, max(BUCKET_STEPS, half // BUCKET_STEPS * BUCKET_STEPS))


def to_layer(config: HsdConfig) -> Layer:
    """The whole configuration as a layer: `build` makes the same of it."""
    layer: Layer = {
        "mode": config.mode,
        "levels": [level.name for level in config.levels],
        "duplicate_overlap": config.duplicate_overlap,
        "near_duplicates": config.near_duplicates,
        "min_size": config.min_size,
        "format": config.format,
        "caption": config.caption,
        "drop_tags": config.drop_tags,
        "batch_size": config.batch_size,
        "export": list(config.export),
        "clips": config.clips,
        "clip_fps": float(config.clip_fps),
        "clip_frames": config.clip_frames,
        "clip_resolution": config.clip_resolution,
        "clip_segments": config.clip_segments,
        "clip_shots": config.clip_shots,
        "clip_labels": [str(label) for label in config.clip_labels],
        "device": config.device,
        "upscale_model": str(config.upscale_model.resolve()) if config.upscale_model else "",
        "masks": absolute(config.masks),
        "detector": {"name": config.detector, **config.detector_options},
        "captioner": {"name": config.captioner, **config.captioner_options},
        "iou": {f"{coarser}/{finer}": value for (coarser, finer), value in config.iou_thresholds.items()},
        "level": {level.name: _level_layer(level) for level in config.levels},
    }
    if config.overrides:
        layer["overrides"] = {folder: _difference(to_layer(own), layer) for folder, own in config.overrides.items()}
    return layer


def to_toml(config: HsdConfig) -> str:
    """hsd_config.toml: everything written out, so that it can be fed back with --config."""
    return sealed(HEADER, toml.dumps(to_layer(config)))


def _level_layer(level: LevelConfig) -> Layer:
    return {
        **{name: getattr(level, name) for name in SHARED},
        "own_scale": level.own_scale,
        "caption_prefix": level.caption_prefix,
        **({"detector": level.detector} if level.detector else {}),
        **({"sizes": [list(size) for size in level.sizes]} if level.sizes else {}),
    }


def _difference(table: Layer, base: Layer) -> Layer:
    """The entries of `table` that `base` has not; of the tables of levels, the same within each."""
    found: Layer = {}
    for key, value in table.items():
        if key == "level":
            levels = {name: _difference(own, tables_of(base, key).get(name, {})) for name, own in dict(value).items()}
            found |= {key: {name: own for name, own in levels.items() if own}} if any(levels.values()) else {}
        elif value != base.get(key):
            found[key] = value
    return found


def _is_below(folder: str, outer: str) -> bool:
    return PurePosixPath(folder).is_relative_to(outer)
