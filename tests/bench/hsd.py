"""Photos per second of the H-SD pipeline beside the least that its codecs take, and its peak memory.

    python tests/bench/hsd.py [--photos 48] [--rounds 5] [--detector stub] [--memory 100 1000] [--large 36 100]
    python tests/bench/hsd.py --against CHECKOUT --memory --large    # beside another commit of this repository

Photos of 1800x1200 pixels, a detector that answers at once, five slices each of at most one megapixel: the whole photo,
two parts that are scaled down, two that are cut as they are; and the photo's own copy for the raw arm. Beside it, by
turns, and with two threads as well:

- the limit: what has to be done for these pictures by these codecs, and nothing else. Each photo is decoded once by
  Pillow, scaled as H-SD scales, deflated or encoded by ISA-L or OpenCV. No file is written.
- Pillow: what a script of twenty lines does. Open, crop, Lanczos, save; no copy of the photo, no manifest, no report.

Photos/s are those of the best round, by the clock and "alone": what two cores would do without anything else on them, 2
over the processor time of a photo. "the first to it" is H-SD's time over the other's in the same round: the middle one,
the least and the most. With --against these are three runs in processes of their own: "no copies", of this checkout
without the photos' own copies, which it may be that the other does not make; "there", of the other; and "here", whole.
Memory is the peak resident size of a process of its own; for --large, of ten photos of so many megapixels each, with
the usual bound on those in flight and with 1 GB.
"""

import argparse
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import cv2
import numpy as np
from isal import isal_zlib
from PIL import Image, ImageOps

from sga_kohya.hsd import Box, Detection, HsdConfig, LevelConfig, View, register_detector, run

WIDTH, HEIGHT = 1800, 1200
LARGE = 10
DIFFERENT = 24
"""Photos that differ; the others are links to them."""
WORKERS = 2
BOXES = {
    "meso": ((60, 60, 1160, 1160), (900, 100, 1780, 1190)),
    "micro": ((300, 200, 940, 840), (1100, 300, 1612, 1068)),
}
Seconds = tuple[float, float]
"""By the clock, and of the processor."""
PILLOW = {"png": {"compress_level": 1}, "jpg": {"quality": 95, "subsampling": 0}}


class Stub:
    """Finds boxes at once: nearly the same in every photo, but of no two photos of a run the same size."""

    name = "stub"

    def detect(self, views: Sequence[View], level: str) -> list[list[Detection]]:
        return [[Detection(box, 1 - i / 10, level) for i, box in enumerate(_boxes(view, level))] for view in views]


def _boxes(view: View, level: str) -> list[Box]:
    less = int("".join(filter(str.isdigit, view.source))) % 48
    return [Box(x0, y0, x1 - less, y1).shifted(-view.box.x0, -view.box.y0) for x0, y0, x1, y1 in BOXES[level]]


def config(extension: str, detector: str = "stub") -> HsdConfig:
    return HsdConfig(
        (
            LevelConfig("macro", 1024, tau_up=1.0),
            LevelConfig("meso", 1024, tau_up=1.0, max_slices=2),
            LevelConfig("micro", 1024, tau_up=1.0, max_slices=2),
        ),
        detector=detector,
        duplicate_overlap=1.0,
        near_duplicates=-1,
        format=extension,
    )


def make_photo(seed: int) -> np.ndarray:
    """Noise whose spectrum falls as that of photographs does, with a little grain."""
    random = np.random.default_rng(seed)
    pixels = np.full((HEIGHT, WIDTH, 3), 120, np.float32)
    for octave in range(2, 11):
        cells = 2**octave
        layer = random.standard_normal((cells * HEIGHT // WIDTH + 2, cells + 2, 3)).astype(np.float32)
        pixels += cv2.resize(layer, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) * (80 * 2 ** (-0.9 * (octave - 2)))
    pixels += 2 * random.standard_normal(pixels.shape).astype(np.float32)
    return pixels.clip(0, 255).astype(np.uint8)


def make_large(folder: Path, megapixels: int) -> Path:
    """One, and links to it: only its size counts."""
    folder.mkdir()
    height = round((megapixels * 10**6 * HEIGHT / WIDTH) ** 0.5)
    large = cv2.resize(make_photo(0), (height * WIDTH // HEIGHT, height), interpolation=cv2.INTER_CUBIC)
    Image.fromarray(large).save(folder / "photo00000.jpg", quality=92)
    for i in range(1, LARGE):
        os.link(folder / "photo00000.jpg", folder / f"photo{i:05d}.jpg")
    return folder


def make_photos(folder: Path, count: int) -> Path:
    folder.mkdir()
    for i in range(count):
        path = folder / f"photo{i:05d}.jpg"
        if i < DIFFERENT:
            Image.fromarray(make_photo(i)).save(path, quality=92)
        else:
            os.link(folder / f"photo{i % DIFFERENT:05d}.jpg", path)
    return folder


def bare_pillow(photos: Path, out: Path, plan: dict[str, list[tuple]], extension: str) -> None:
    """plan: source to (file, box, size)."""

    def one(source: str) -> None:
        with Image.open(photos / source) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
        for file, box, size in plan[source]:
            crop = image.crop(box)
            if crop.size != size:
                crop = crop.resize(size, Image.Resampling.LANCZOS)
            path = (out / file).with_suffix(f".{extension}")
            path.parent.mkdir(parents=True, exist_ok=True)
            crop.save(path, **PILLOW[extension])
            path.with_suffix(".txt").write_text("photo\n")

    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(one, plan))


def limit(photos: Path, plan: dict[str, list[tuple]], extension: str) -> None:
    """plan: as for `bare_pillow`; the pictures are made and dropped."""
    from sga_kohya.hsd.photos.scaling import resize  # not at the top: another commit may have it elsewhere

    def one(source: str) -> None:
        with Image.open(io.BytesIO((photos / source).read_bytes())) as opened:
            image = np.asarray(opened)
        for _, (x0, y0, x1, y1), size in plan[source]:
            encode(resize(image[y0:y1, x0:x1], size))

    encode = {"png": _deflated, "jpg": _encoded}[extension]
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(one, plan))
    cv2.setNumThreads(before)


def _deflated(pixels: np.ndarray) -> bytes:
    """What is large in a PNG file: the rows, each less the one above."""
    rows = np.ascontiguousarray(pixels).reshape(len(pixels), -1)
    filtered = np.full((rows.shape[0], rows.shape[1] + 1), 2, np.uint8)
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    return isal_zlib.compress(filtered.data, 1)


def _encoded(pixels: np.ndarray) -> np.ndarray:
    from sga_kohya.hsd.photos.images import JPEG

    return cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), JPEG)[1]


def timed(function, *args: object) -> Seconds:
    """By the clock, and of the processor."""
    start = time.perf_counter(), time.process_time()
    function(*args)
    return time.perf_counter() - start[0], time.process_time() - start[1]


def elsewhere(checkout: str, photos: Path, out: Path, extension: str, detector: str, copies: bool) -> Seconds:
    """Of the same run by another commit, in a process of its own that has made one before."""
    command = [sys.executable, __file__, "--once", str(photos), str(out), extension, detector, str(int(copies))]
    environment = {**os.environ, "PYTHONPATH": checkout}
    wall, used = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout)
    return wall, used


def once(photos: str, out: str, extension: str, detector: str, copies: str) -> None:
    """copies: "0" for all photos as if they were some, of which no copies for the raw arm are made."""
    only = None if copies == "1" else len(os.listdir(photos))
    for folder in (Path(out) / "warm", Path(out) / "cold"):
        seconds = timed(run, Path(photos), folder, config(extension, detector), WORKERS, False, only)
    print(json.dumps(seconds))


def planned(photos: Path, out: Path, settings: HsdConfig) -> tuple[dict[str, list[tuple]], dict[str, list[tuple]]]:
    """By source, (file, box, size) of what a run has made: the slices; and those with the photo's own copy."""
    from sga_kohya.hsd.out.lines import read_rows
    from sga_kohya.hsd.out.raw_folder import largest

    slices: dict[str, list[tuple]] = {}
    for row in read_rows(out):
        if row.file:
            slices.setdefault(row.source, []).append((row.file, tuple(row.box), tuple(row.size)))
    whole = (0, 0, WIDTH, HEIGHT)
    copy = (None, whole, largest((WIDTH, HEIGHT), settings.resolution))
    assert all(box[2] <= WIDTH and size[0] * size[1] <= 2**20 for cut in slices.values() for _, box, size in cut)
    return slices, {source: [*cut, copy] for source, cut in slices.items()}


def rounds(args: argparse.Namespace, photos: Path, scratch: Path, extension: str) -> Iterator[dict[str, Seconds]]:
    """The times of each round, by who took them."""
    settings = config(extension, args.detector)
    # Nothing is deleted in between: where files have just gone, ext4 is slow to make new ones.
    for number in range(args.rounds):
        out, other = (scratch / f"{name}-{extension}-{number}" for name in ("out", "other"))
        took = {"H-SD": timed(run, photos, out, settings, WORKERS)}
        slices, pictures = planned(photos, out, settings)
        assert args.detector != "stub" or all(len(cut) == 5 for cut in slices.values())
        took["limit"] = timed(limit, photos, pictures, extension)
        took["Pillow"] = timed(bare_pillow, photos, other, slices, extension)
        took["rerun"] = timed(run, photos, out, settings, WORKERS)
        yield took


def commits(args: argparse.Namespace, photos: Path, scratch: Path, extension: str) -> Iterator[dict[str, Seconds]]:
    """Likewise, of this checkout and of the other."""
    here = str(Path(__file__).parents[2])
    arms = {"no copies": (here, False), "there": (args.against, True), "here": (here, True)}
    for number in range(args.rounds):
        took = {}
        for name, (checkout, copies) in arms.items():
            out = scratch / f"{name}-{extension}-{number}"
            took[name] = elsewhere(checkout, photos, out, extension, args.detector, copies)
        yield took


def speed(args: argparse.Namespace, photos: Path, scratch: Path) -> None:
    for extension in ("png", "jpg"):
        took = list((commits if args.against else rounds)(args, photos, scratch, extension))
        print(f"{f'{extension}, {args.detector}':<16}photos/s   alone   the first to it by the clock, of the processor")
        first = next(iter(took[0]))
        for name in took[0]:
            clock, used = (min(round_[name][i] for round_ in took) for i in (0, 1))
            ratios = "" if name in (first, "rerun") else "".join(_ratio(took, first, name, i) for i in (0, 1))
            print(f"{name:<14}{args.photos / clock:>10.1f}{2 * args.photos / used:>8.1f}{ratios}", flush=True)


def _ratio(took: Sequence[dict[str, Seconds]], ours: str, name: str, kind: int) -> str:
    each = sorted(round_[ours][kind] / round_[name][kind] for round_ in took)
    return f"   {median(each):.2f} ({each[0]:.2f} to {each[-1]:.2f})"


def memory(photos: str, scratch: str, limit: str) -> None:
    """In a process of its own, as the peak never falls. limit: bytes, "" for the usual."""
    bound = {"memory": int(limit)} if limit else {}
    begin = time.perf_counter()
    run(Path(photos), Path(scratch) / "memory", config("jpg"), WORKERS, **bound)
    print(json.dumps([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, time.perf_counter() - begin]))


def measure(photos: Path, scratch: Path, count: int, limit: str = "") -> str:
    command = [sys.executable, __file__, "--measure", str(photos), str(scratch), limit]
    peak, seconds = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    shutil.rmtree(scratch / "memory")
    return f"peak memory {peak:.0f} MB, {count / seconds:.1f} photos/s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=48, help="to time; 0 times none")
    parser.add_argument("--memory", type=int, nargs="*", default=[100, 1000], help="numbers of photos")
    parser.add_argument("--large", type=int, nargs="*", default=[36, 100], help="megapixels of large photos")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--detector", default="stub")
    parser.add_argument("--against", metavar="CHECKOUT", help="folder of another commit")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--once", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    register_detector("stub", lambda options, photos: Stub())
    if args.measure:
        return memory(*args.measure)
    if args.once:
        return once(*args.once)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if args.photos:
            speed(args, make_photos(scratch / "photos", args.photos), scratch)
        for count in args.memory:
            photos = make_photos(scratch / f"photos{count}", count)
            print(f"{count:>6} photos to jpg: {measure(photos, scratch, count)}", flush=True)
        for megapixels in args.large:
            photos = make_large(scratch / f"large{megapixels}", megapixels)
            for limit, name in (("", "usual bound"), ("1000000000", "1 GB")):
                said = measure(photos, scratch, LARGE, limit)
                print(f"{megapixels:>6} megapixels, {name}: {said}", flush=True)


if __name__ == "__main__":
    main()
