"""Layers of settings: tables as read from files, checked key by key and merged, later over earlier."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sga_kohya.errors import SgaError
from sga_kohya.hsd.clips.labels import parse_labels
from sga_kohya.hsd.masks.sources import ALPHA, DETECTOR, NONE
from sga_kohya.hsd.settings.config import DEFAULT_LEVELS, RUN_WIDE
from sga_kohya.kit.fields import Fields
from sga_kohya.kit.hints import did_you_mean
from sga_kohya.kit.toml_file import read_toml
from sga_kohya.kit.values import Reader, boolean, listed, mapping, number, reads, text, whole

Layer = dict[str, Any]
"""As TOML has them; `checked` lets nothing in whose kind is not the one in KEYS."""


@reads("write a list of [WIDTH, HEIGHT]")
def sizes(value: object) -> list[list[int]]:
    """TOML's form, as Layers keep it."""
    pairs = listed(listed(whole(1)))(value)
    return [[width, height] for width, height in pairs]


@reads('write "COARSER/FINER" = NUMBER, such as "meso/micro" = 0.7')
def iou(value: object) -> dict[str, float]:
    pairs = {name: number()(threshold) for name, threshold in mapping(value).items()}
    if not all(name.count("/") == 1 for name in pairs):
        raise ValueError
    return pairs


@reads('write a list of trainers, such as ["simpletuner"]')
def trainers(value: object) -> list[str]:
    return list(listed(text)(value))


@reads('write a list of labels, long to short, such as ["clip", "shot:33:384", "frame"]')
def clip_labels(value: object) -> list[str]:
    """TOML's form, as Layers keep it; each can be read."""
    found = list(listed(text)(value))
    parse_labels(found)
    return found


@reads('write a list of names, such as ["macro", "micro"]')
def level_list(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TypeError
    return value


PRESETS = Path(__file__).parent / "presets"

SHARED: dict[str, Reader[Any]] = {
    **dict.fromkeys(("resolution", "max_slices", "repeats"), whole()),
    **dict.fromkeys(("tau_down", "tau_up", "margin", "min_detail"), number()),
}
"""Keys that stand for all levels at the top of a file, and for one level in its table."""
FINER_ONLY = ("tau_up", "max_slices", "min_detail")
"""Shared keys that do not reach the coarsest level: it is not enlarged, and a photo is a region whatever it shows."""
LEVEL_KEYS: dict[str, Reader[Any]] = {
    **SHARED,
    **dict.fromkeys(("caption_prefix", "detector"), text),
    "own_scale": boolean,
    "sizes": sizes,
}
KEYS: dict[str, Reader[Any]] = {
    **SHARED,
    **dict.fromkeys(
        ("extends", "mode", "detector", "device", "format", "caption", "captioner", "upscale_model", "masks", "clips"),
        text,
    ),
    **dict.fromkeys(
        ("near_duplicates", "min_size", "batch_size", "clip_frames", "clip_resolution", "clip_segments"), whole()
    ),
    **dict.fromkeys(("detector_options", "captioner_options", "level", "overrides"), mapping),
    "iou": iou,
    **dict.fromkeys(("duplicate_overlap", "clip_fps"), number()),
    "clip_labels": clip_labels,
    **dict.fromkeys(("drop_tags", "clip_shots"), boolean),
    "levels": level_list,
    "export": trainers,
}
OVERRIDE_KEYS = {name: kind for name, kind in KEYS.items() if name not in ("extends", "overrides", *RUN_WIDE)}
NAMED = ("detector", "captioner")
"""Keys that name one of several, which has options of its own: in a table with its name, or in NAME_options."""
PATH_OPTIONS = ("annotations", "classes", "face_model", "model", "tags")
"""Options of those that may name a file or folder."""


def preset_names() -> list[str]:
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def read_preset(name: str, problems: list[str]) -> Layer:
    if name not in preset_names():
        problems.append(f"preset {name!r}: use one of {', '.join(preset_names())}")
        return {}
    return read_file(PRESETS / f"{name}.toml", problems)


def read_file(path: Path, problems: list[str], below: Sequence[Path] = ()) -> Layer:
    """The file merged over what it extends, a preset or another file. below: the files that extend this one."""
    path = path.resolve()
    if path in below:
        problems.append(f"{path}: extends itself")
        return {}
    try:
        raw = read_toml(path)
    except SgaError as error:
        problems.append(str(error))
        return {}
    layer = checked(raw, KEYS, path.name, path.parent, problems)
    parent = str(layer.pop("extends", ""))
    if not parent:
        return layer
    if parent in preset_names():
        return merge(read_preset(parent, problems), layer)
    return merge(read_file(path.parent / parent, problems, (*below, path)), layer)


def checked(given: object, readers: Mapping[str, Reader[Any]], where: str, folder: Path, problems: list[str]) -> Layer:
    """The entries of a table that can be read; what is wrong with the others goes to `problems`.

    where: the table's name in front of them. folder: what paths are relative to.
    """
    fields = Fields(_with_plain_names(given), where, problems)
    good = fields.given(readers)
    fields.refuse_unknown(_where_it_belongs)
    for key in NAMED:
        if f"{key}_options" in good:
            good[f"{key}_options"] = with_absolute_paths(good[f"{key}_options"], folder)
    if good.get("upscale_model"):
        good["upscale_model"] = str(folder / good["upscale_model"])
    if "masks" in good:
        good["masks"] = absolute(good["masks"], folder)
    for key, inner in (("level", LEVEL_KEYS), ("overrides", OVERRIDE_KEYS)):
        if key in good:
            good[key] = {
                name.strip("/"): checked(entry, inner, f'{where}: {key}."{name}"', folder, problems)
                for name, entry in good[key].items()
            }
    return good


def _where_it_belongs(key: str, known: set[str]) -> str:
    return "it is set once, for all photos" if key in RUN_WIDE else did_you_mean(key, known)


def absolute(masks: str, folder: Path | None = None) -> str:
    """The setting `masks`, with a folder's path absolute where there is one. folder: what it is relative to."""
    place = (folder or Path.cwd()) / Path(masks).expanduser()
    return masks if masks in (NONE, ALPHA, DETECTOR) else str(place.resolve())


def with_absolute_paths(options: Mapping[str, Any], folder: Path) -> Layer:
    """Options of a detector or captioner in which files and folders that are given relative to `folder` are absolute.

    Whatever is not there stays as it is: a model may be a name on the hub.
    """
    if "endpoint" in options:  # then the model is a name that the server knows
        return dict(options)

    def placed(value: object) -> object:
        if isinstance(value, Mapping):  # per level
            return {level: placed(own) for level, own in value.items()}
        path = folder / Path(str(value)).expanduser()
        return str(path.resolve()) if isinstance(value, str) and value and path.exists() else value

    def placed_option(name: str, value: object) -> object:
        if set(name.split(".")) & set(PATH_OPTIONS):
            return placed(value)
        return with_absolute_paths(value, folder) if isinstance(value, Mapping) else value  # of one of several

    return {name: placed_option(name, value) for name, value in options.items()}


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Layer:
    """`over` on top of `base`. What it says for all levels also replaces what `base` says for one of them."""
    merged: Layer = {**base, **over}
    names = level_names(merged)
    tables = {
        name: dict(table) for name, table in tables_of(base, "level").items() if "levels" not in over or name in names
    }
    for name, table in tables.items():
        for key in SHARED.keys() & over.keys():
            if key not in FINER_ONLY or name != names[0]:
                table.pop(key, None)
    for name, table in tables_of(over, "level").items():
        tables[name] = {**tables.get(name, {}), **table}
    merged["level"] = tables
    for key in NAMED:
        # The options of another detector would only be refused.
        kept = tables_of(base, f"{key}_options") if over.get(key, base.get(key)) == base.get(key) else {}
        merged[f"{key}_options"] = {**kept, **tables_of(over, f"{key}_options")}
    overrides = dict(tables_of(base, "overrides"))
    for folder, table in tables_of(over, "overrides").items():
        overrides[folder] = merge(overrides.get(folder, {}), table)
    merged["overrides"] = overrides
    return merged


def level_names(layer: Mapping[str, Any]) -> list[str]:
    return [str(name) for name in layer.get("levels") or [level.name for level in DEFAULT_LEVELS]]


def tables_of(layer: Mapping[str, Any], key: str) -> dict[str, Layer]:
    tables: dict[str, Layer] = layer.get(key) or {}
    return tables


def _with_plain_names(given: object) -> object:
    """[detector] name = …, with options beside it, as `detector` and `detector_options`; of all in NAMED."""
    if not isinstance(given, Mapping):
        return given
    plain = dict(given)
    for key in NAMED:
        if isinstance(plain.get(key), Mapping):
            options = dict(plain.pop(key))
            if "name" in options:
                plain[key] = options.pop("name")
            plain[f"{key}_options"] = options
    return plain
