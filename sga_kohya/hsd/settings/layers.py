"""Layers of settings: tables as read from files, checked key by key and merged, later over earlier."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sga_kohya.errors import SgaError
from sga_kohya.hsd.settings.config import DEFAULT_LEVELS, RUN_WIDE
from sga_kohya.kit.hints import did_you_mean
from sga_kohya.kit.toml_file import read_toml

Layer = dict[str, Any]
"""As TOML has them; `checked` lets nothing in whose kind is not the one in KEYS."""

PRESETS = Path(__file__).parent / "presets"

SHARED: dict[str, type] = {
    **dict.fromkeys(("resolution", "max_slices", "repeats"), int),
    **dict.fromkeys(("tau_down", "tau_up", "margin", "min_detail"), float),
}
"""Keys that stand for all levels at the top of a file, and for one level in its table."""
FINER_ONLY = ("tau_up", "max_slices", "min_detail")
"""Shared keys that do not reach the coarsest level: it is not enlarged, and a photo is a region whatever it shows."""
LEVEL_KEYS: dict[str, type] = {
    **SHARED,
    **dict.fromkeys(("caption_prefix", "detector"), str),
    "own_scale": bool,
    "sizes": list,
}
KEYS: dict[str, type] = {
    **SHARED,
    **dict.fromkeys(("extends", "mode", "detector", "device", "format", "caption", "upscale_model"), str),
    **dict.fromkeys(("near_duplicates", "min_size", "batch_size"), int),
    **dict.fromkeys(("detector_options", "iou", "level", "overrides"), dict),
    "duplicate_overlap": float,
    "drop_tags": bool,
    "levels": list,
}
OVERRIDE_KEYS = {name: kind for name, kind in KEYS.items() if name not in ("extends", "overrides", *RUN_WIDE)}
PATH_OPTIONS = ("annotations", "classes", "model")
"""Options of detectors that may name a file or folder."""
WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", list: "a list", dict: "a table"}


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
    layer = checked(raw, KEYS, f"{path.name}: ", path.parent, problems)
    parent = str(layer.pop("extends", ""))
    if not parent:
        return layer
    if parent in preset_names():
        return merge(read_preset(parent, problems), layer)
    return merge(read_file(path.parent / parent, problems, (*below, path)), layer)


def checked(table: Mapping[str, Any], keys: Mapping[str, type], where: str, folder: Path, problems: list[str]) -> Layer:
    """The entries of a file with a known key and a value of its type; the others become problems.

    where: in front of them. folder: what paths are relative to.
    """
    good: Layer = {}
    for key, value in _with_plain_detector(table).items():
        if key not in keys:
            hint = "it is set once, for all photos" if key in RUN_WIDE else did_you_mean(key, keys)
            problems.append(f"{where}unknown key {key!r}: {hint}")
        elif wanted := _mismatch(key, value, keys[key]):
            problems.append(f"{where}{key} = {value!r}: write {wanted}")
        elif key == "detector_options":
            good[key] = with_absolute_paths(dict(value), folder)
        elif key == "upscale_model":
            good[key] = str(folder / str(value)) if value else ""
        elif key in ("level", "overrides"):
            inner = LEVEL_KEYS if key == "level" else OVERRIDE_KEYS
            good[key] = {
                name.strip("/"): checked(entry, inner, f'{where}{key}."{name}": ', folder, problems)
                for name, entry in dict(value).items()
                if _is_a(entry, dict)
            }
            problems += [
                f"{where}{key}.{n} = {e!r}: write a table" for n, e in dict(value).items() if not _is_a(e, dict)
            ]
        else:
            good[key] = value
    return good


def with_absolute_paths(options: Mapping[str, Any], folder: Path) -> Layer:
    """Options of a detector in which files and folders that are given relative to `folder` are absolute.

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
    if over.get("detector", base.get("detector")) == base.get("detector"):
        # The options of another detector would only be refused.
        merged["detector_options"] = {**tables_of(base, "detector_options"), **tables_of(over, "detector_options")}
    else:
        merged["detector_options"] = tables_of(over, "detector_options")
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


def _mismatch(key: str, value: Any, kind: type) -> str:
    """What to write instead of `value`, "" where it has the right form."""
    if not _is_a(value, kind):
        return WORDS[kind]
    if key == "sizes" and not all(_is_a(size, list) and len(size) == 2 and _all_are(size, int) for size in list(value)):
        return "a list of [WIDTH, HEIGHT]"
    if key == "levels" and not _all_are(value, str):
        return 'a list of names, such as ["macro", "micro"]'
    if key == "iou" and not all(name.count("/") == 1 and _is_a(iou, float) for name, iou in dict(value).items()):
        return '"COARSER/FINER" = NUMBER, such as "meso/micro" = 0.7'
    return ""


def _all_are(values: Iterable[object], kind: type) -> bool:
    return all(_is_a(value, kind) for value in values)


def _with_plain_detector(table: Mapping[str, Any]) -> Layer:
    """[detector] name = …, with options beside it, as `detector` and `detector_options`."""
    plain = dict(table)
    if isinstance(plain.get("detector"), dict):
        options = dict(plain.pop("detector"))
        if "name" in options:
            plain["detector"] = options.pop("name")
        plain["detector_options"] = options
    return plain


def _is_a(value: object, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)
