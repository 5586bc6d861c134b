"""The words of the command line: what they are, and the settings that they make."""

import argparse
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from sga_kohya.errors import SgaError
from sga_kohya.hsd.captioners.captioner import CAPTIONERS
from sga_kohya.hsd.clips.labels import MODES as MODES_OF_CLIPS
from sga_kohya.hsd.clips.labels import SHOT, parse_labels
from sga_kohya.hsd.detect import DETECTORS
from sga_kohya.hsd.out.exports import EXPORTS
from sga_kohya.hsd.photos.images import FORMATS
from sga_kohya.hsd.settings.config import MODES, HsdConfig
from sga_kohya.hsd.settings.config_file import CONFIG_TOML, load_config
from sga_kohya.hsd.settings.layers import NAMED, Layer, preset_names, with_absolute_paths
from sga_kohya.hsd.team import Process
from sga_kohya.kit.cli import Parser
from sga_kohya.kit.toml_file import parse_toml

PLAIN = (
    *("mode", "resolution", "detector", "device", "max_slices", "tau_up", "tau_down", "min_size", "format", "caption"),
    *("captioner", "margin", "min_detail", "upscale_model", "masks", "drop_tags", "near_duplicates", "repeats"),
    "batch_size",
    *("clips", "clip_fps", "clip_frames", "clip_resolution", "clip_segments", "clip_shots"),
)
"""Options that are keys of a file, too."""

EPILOG = (
    "Every setting can also stand in the file of --config, and those of one level (own_scale, sizes, detector, "
    f"caption_prefix) only there; the effective ones are in OUT/{CONFIG_TOML}. To look the slices over in the browser "
    "and decide about them: python -m sga_kohya.hsd review OUT"
)
DEFAULTS = HsdConfig()
FINER, FINEST = DEFAULTS.finer
PROCESS = Process.of(os.environ)
"""This one, of several that torchrun or accelerate launch started; None where it is alone."""


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m sga_kohya.hsd",
        description="Cut photos and clips into macro, meso and micro slices, ready for sd-scripts and musubi-tuner.",
        epilog=EPILOG,
    )
    add = parser.add_argument
    add(
        "photos",
        type=Path,
        metavar="PHOTOS",
        help="folder with photos and clips, searched recursively; never written to",
    )
    add("out", type=Path, metavar="OUT", help="folder for the slices, dataset.toml, sga_manifest.jsonl and report.html")
    add("--preset", default="", metavar=_one_of(preset_names()), help="settings to start from (default: none)")
    add(
        "--config",
        type=Path,
        metavar="FILE.toml",
        help="settings over the preset's; the command line goes over both (default: none)",
    )
    add(
        "--preview",
        type=int,
        metavar="N",
        help="cut N photos, spread evenly, and keep only OUT/preview/report.html (default: all)",
    )
    add(
        "--move",
        action="store_true",
        help="cut nothing: PHOTOS is where a data set was made and OUT where it lies or will lie; makes the files that "
        "trainers read name the new place (default: cut)",
    )
    _add_running(add)
    _add_cutting(parser.add_argument_group("what is cut").add_argument)
    _add_detecting(parser.add_argument_group("what finds the slices").add_argument)
    _add_reading(parser.add_argument_group("which photos, and their captions").add_argument)
    _add_clips(parser.add_argument_group("what is cut from clips").add_argument)
    _add_writing(parser.add_argument_group("what is written").add_argument)
    return parser


def _add_running(add: Callable[..., object]) -> None:
    add(
        "--workers",
        type=int,
        default=usual_workers(PROCESS),
        metavar="N",
        help="threads that load and save, of each process where there are several (default: %(default)s)",
    )
    add(
        "--memory",
        metavar="SIZE",
        help="for all photos in flight of a process, such as 2GB or 500MB; one that takes more goes alone (default: a "
        "quarter of the machine's, shared by its processes, at most 4GB)",
    )


def _add_cutting(add: Callable[..., object]) -> None:
    names = ",".join(level.name for level in DEFAULTS.levels)
    add(
        "--levels",
        metavar="NAME,NAME",
        help="coarse to fine, each with its own resolution if wanted: macro:1024,meso,micro:512 " + _default(names),
    )
    add(
        "--mode",
        metavar=_one_of(MODES),
        help="a photo is one region (whole), or its regions are what the detector finds for the coarsest level (split) "
        + _default(DEFAULTS.mode),
    )
    area = "its square is the largest area of a slice, in pixels " + _default(FINER.resolution)
    add("--resolution", type=int, metavar="PIXELS", help=area)
    slices = "slices of each finer level, at most, per region " + _default(FINER.max_slices)
    add("--max_slices", "--per_level", type=int, metavar="N", help=slices)
    upscale = "largest upscale; finer crops that need more take a smaller size " + _default(
        f"{FINER.tau_up:g}, {FINEST.name} {FINEST.tau_up:g}"
    )
    add("--tau_up", type=float, metavar="FACTOR", help=upscale)
    downscale = "cut, not downsample, crops up to this much too large " + _default(f"{FINER.tau_down:g}")
    add("--tau_down", type=float, metavar="FACTOR", help=downscale)
    around = "room around a box, over its width and height, on every side " + _default(f"{FINER.margin:g}")
    add("--margin", type=float, metavar="SHARE", help=around)
    detail = "leave out finer slices that are flat or blurred: with less detail than this, in grey levels " + _default(
        f"{FINER.min_detail:g}, {FINEST.name} {FINEST.min_detail:g}"
    )
    add("--min_detail", type=float, metavar="LEVELS", help=detail)
    add(
        "--iou",
        nargs="+",
        metavar="COARSER/FINER=IOU",
        help="above which IoU the coarser of two slices is redundant " + _default("0.7 for each pair of finer levels"),
    )


def _add_detecting(add: Callable[..., object]) -> None:
    names = "by name, or your own function as package.module:function; of several, A,B, the next is asked where one "
    names += "finds nothing " + _default(DEFAULTS.detector)
    add("--detector", metavar=_one_of(sorted(DETECTORS)), help=names)
    add(
        "--detector_arg",
        action="append",
        metavar="KEY=VALUE",
        help="option of the detector, of several: NAME.KEY=VALUE; may be repeated " + _default("its own"),
    )
    device = "for detector and upscaler, such as cuda:1 " + _default("the accelerator that is there")
    add("--device", metavar="NAME", help=device)


def _add_reading(add: Callable[..., object]) -> None:
    add(
        "--near_duplicates",
        type=int,
        metavar="BITS",
        help="photos whose perceptual hash differs from a larger one's in so few of 64 bits are left out, and clips "
        "that are the same file as another; -1: none " + _default(DEFAULTS.near_duplicates),
    )
    add(
        "--caption",
        metavar="TEXT",
        help="for photos without a .txt or .caption file "
        + _default("words of their folder, such as 'sks dog' of '10_sks dog', or of their name"),
    )
    own = ", or your own function as package.module:function "
    add(
        "--captioner",
        metavar=_one_of(sorted(CAPTIONERS)),
        help="what puts slices into words" + own + _default("inherit"),
    )
    add(
        "--captioner_arg",
        action="append",
        metavar="KEY=VALUE",
        help="option of the captioner; may be repeated " + _default("its own"),
    )
    add(
        "--drop_tags",
        action=argparse.BooleanOptionalAction,
        help="leave out tags of what a slice does not show; prose, and what ||| protects, stay "
        + _default("--drop_tags" if DEFAULTS.drop_tags else "--no-drop_tags"),
    )


def _add_writing(add: Callable[..., object]) -> None:
    shortest = "shortest side of a slice in pixels; smaller photos are skipped " + _default(DEFAULTS.min_size)
    add("--min_size", type=int, metavar="PIXELS", help=shortest)
    add("--upscale_model", metavar="FILE", help="ESRGAN weights for crops that are too small " + _default("Lanczos"))
    masks = "what counts in training: the photos' own transparency (alpha), what the detector draws, or masks in a "
    masks += "folder, named as the photos "
    add("--masks", metavar="{alpha,detector,FOLDER}", help=masks + _default("all of it"))
    add("--format", metavar=_one_of(FORMATS), help="of the slices " + _default(DEFAULTS.format))
    add("--repeats", type=int, metavar="N", help="num_repeats of every level " + _default(FINER.repeats))
    always = " and ".join(export.file for export in EXPORTS.values() if export.always)
    add(
        "--export",
        action="append",
        metavar=_one_of(EXPORTS),
        help="further trainers to write a file for, separated by commas " + _default(f"{always} alone"),
    )
    add("--batch_size", type=int, metavar="N", help="for dataset.toml " + _default(DEFAULTS.batch_size))


def _add_clips(add: Callable[..., object]) -> None:
    add(
        "--clips",
        metavar=_one_of(MODES_OF_CLIPS),
        help="one fixed box a level through each clip (spatial), a slice of each length (temporal), both, or pass "
        "clips over (off) " + _default(DEFAULTS.clips),
    )
    rate = "frames a second of the slices: what the model is made for, such as 16 for Wan, 24 for HunyuanVideo and "
    add(
        "--clip_fps",
        type=float,
        metavar="FPS",
        help=rate + "Kandinsky, 30 for FramePack " + _default(f"{DEFAULTS.clip_fps:g}"),
    )
    frames = "of a spatial slice, 4n+1; shorter clips take half of it, and so on " + _default(DEFAULTS.clip_frames)
    add("--clip_frames", type=int, metavar="N", help=frames)
    area = "as --resolution, of spatial slices " + _default(DEFAULTS.clip_resolution)
    add("--clip_resolution", type=int, metavar="PIXELS", help=area)
    parts = "parts of one clip that are cut, each a group of its own, at most; one is its middle "
    add("--clip_segments", type=int, metavar="N", help=parts + _default(DEFAULTS.clip_segments))
    add(
        "--clip_shots",
        action=argparse.BooleanOptionalAction,
        help="no slice goes across a cut, which PySceneDetect finds "
        + _default("--clip_shots" if DEFAULTS.clip_shots else "--no-clip_shots"),
    )
    labels = "of temporal slices, long to short, each with its own frames and resolution if wanted: "
    usual = ",".join(map(str, DEFAULTS.clip_labels))
    add(
        "--clip_labels",
        metavar="NAME,NAME",
        help=f"{labels}clip,moment:9:512,frame; one frame is an image, the sharpest; {SHOT} ends at cuts "
        + _default(usual),
    )


def _one_of(words: Iterable[str]) -> str:
    """As argparse shows choices, which are checked later, with everything else that is wrong."""
    return "{" + ",".join(words) + "}"


def _default(value: object) -> str:
    """As argparse shows defaults; here they are what no file and no preset says otherwise."""
    return f"(default: {value})".replace("%", "%%")


def config_from(args: argparse.Namespace) -> HsdConfig:
    """Raises SgaError, naming every bad value."""
    layer: Layer = {name: getattr(args, name) for name in PLAIN if getattr(args, name) is not None}
    if args.levels is not None:
        layer |= parse_levels(args.levels)
    if args.export is not None:
        layer["export"] = [name.strip() for names in args.export for name in names.split(",")]
    if args.clip_labels is not None:
        layer["clip_labels"] = [label.strip() for label in args.clip_labels.split(",")]
        parse_labels(layer["clip_labels"])
    if args.iou is not None:
        layer["iou"] = dict(map(parse_iou, args.iou))
    for name in NAMED:
        given = getattr(args, f"{name}_arg")
        if given is not None:
            options = dict(parse_option(text, f"--{name}_arg") for text in given)
            layer[f"{name}_options"] = with_absolute_paths(options, Path.cwd())
    return load_config(args.preset, args.config, layer)


def parse_levels(text: str) -> Layer:
    """NAME or NAME:RESOLUTION, separated by commas."""
    tables: dict[str, dict[str, int]] = {}
    names = []
    for item in text.split(","):
        name, _, resolution = item.strip().partition(":")
        if resolution and not resolution.isdigit():
            raise SgaError(f"--levels {item}: {resolution!r} is no resolution, write NAME:PIXELS, such as micro:512")
        names.append(name)
        if resolution:
            tables[name] = {"resolution": int(resolution)}
    return {"levels": names, "level": tables}


def parse_iou(text: str) -> tuple[str, float]:
    """COARSER/FINER=IOU, such as meso/micro=0.7."""
    try:
        pair, threshold = text.split("=")
        coarser, finer = pair.split("/")
        return f"{coarser}/{finer}", float(threshold)
    except ValueError:
        raise SgaError(f"--iou {text}: write COARSER/FINER=IOU, such as meso/micro=0.7") from None


def parse_option(text: str, argument: str = "--detector_arg") -> tuple[str, object]:
    """KEY=VALUE, the value as in TOML, else as text. argument: that it was given to."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise SgaError(f"{argument} {text}: write KEY=VALUE, such as threshold=0.4")
    try:
        return key, parse_toml(f"value = {value}", text)["value"]
    except SgaError:  # a path of Windows, in quotes too: C:\models\new.onnx
        return key, value.strip("\"'")


def usual_workers(process: Process | None) -> int:
    """Threads of one process: the machine's processors, shared by the processes on it."""
    return max(1, min(8, (os.cpu_count() or 1) // (process.beside if process else 1)))
