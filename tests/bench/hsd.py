"""Photos per second of the H-SD pipeline beside a bare Pillow loop that writes the same slices, and its peak memory.

    python tests/bench/hsd.py [--photos 48] [--memory 100 1000] [--large 36 100]

Photos of 1800x1200 pixels, a detector that answers at once, five slices each of at most one megapixel: the whole photo,
two parts that are scaled down, two that are cut as they are. The Pillow loop has two threads and what a script of
twenty lines has: open, crop, Lanczos, save; it is given the boxes and writes neither manifest nor report. Both run by
turns, and the best of the rounds counts. "alone" is what two cores would do without anything else on them: 2 over the
CPU time of a photo. Memory is the peak resident size of a process of its own; for --large, of ten photos of so many
megapixels each, with the usual bound on those in flight and with 1 GB.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from sga_kohya.hsd import Box, Detection, HsdConfig, LevelConfig, View, register_detector, run
from sga_kohya.hsd.out.ledger import read_rows

WIDTH, HEIGHT = 1800, 1200
LARGE = 10
DIFFERENT = 24
"""Photos that differ; the others are links to them."""
ROUNDS = 3
WORKERS = 2
BOXES = {
    "meso": ((60, 60, 1160, 1160), (900, 100, 1780, 1190)),
    "micro": ((300, 200, 940, 840), (1100, 300, 1612, 1068)),
}
PILLOW = {"png": {"compress_level": 1}, "jpg": {"quality": 95, "subsampling": 0}}


class Stub:
    """Finds the same boxes in every photo, at once."""

    name = "stub"

    def detect(self, views: Sequence[View], level: str) -> list[list[Detection]]:
        x, y = views[0].box.x0, views[0].box.y0
        boxes = [Box(*box).shifted(-x, -y) for box in BOXES[level]]
        return [[Detection(box, 1 - i / 10, level) for i, box in enumerate(boxes)] for _ in views]


def config(extension: str) -> HsdConfig:
    return HsdConfig(
        (
            LevelConfig("macro", 1024, tau_up=1.0),
            LevelConfig("meso", 1024, tau_up=1.0, max_slices=2),
            LevelConfig("micro", 1024, tau_up=1.0, max_slices=2),
        ),
        detector="stub",
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


def timed(function, *args: object) -> tuple[float, float]:
    """Seconds by the clock, and half of the CPU's."""
    start = time.perf_counter(), time.process_time()
    function(*args)
    return time.perf_counter() - start[0], (time.process_time() - start[1]) / 2


def speed(photos: Path, scratch: Path, count: int) -> None:
    columns = ("H-SD", "alone", "Pillow", "alone", "ratio", "rerun")
    print(f"photos/s, best of {ROUNDS}\n      {''.join(f'{name:>8}' for name in columns)}  MB each")
    for extension in ("png", "jpg"):
        ours, theirs = [], []
        for _ in range(ROUNDS):
            out = scratch / "out"
            shutil.rmtree(out, ignore_errors=True)
            ours.append(timed(run, photos, out, config(extension), WORKERS))
            rows = list(read_rows(out))
            plan: dict[str, list[tuple]] = {}
            for row in rows:
                plan.setdefault(row.source, []).append((row.file, tuple(row.box), tuple(row.size)))
            assert all(len(slices) == 5 for slices in plan.values())
            assert all(row.size[0] * row.size[1] <= 2**20 for row in rows)
            shutil.rmtree(scratch / "pillow", ignore_errors=True)
            theirs.append(timed(bare_pillow, photos, scratch / "pillow", plan, extension))
        again, _ = timed(run, photos, out, config(extension), WORKERS)
        size = [sum(f.stat().st_size for f in (scratch / d).glob(f"1_*/*.{extension}")) for d in ("out", "pillow")]
        rates = [count / min(times) for times in (*zip(*ours, strict=True), *zip(*theirs, strict=True))]
        shown = "".join(f"{rate:>8.1f}" for rate in rates)
        print(
            f"{extension:<6}{shown}{rates[0] / rates[2]:>8.2f}{count / again:>8.0f}  "
            f"{size[0] / count / 1e6:.2f}, {size[1] / count / 1e6:.2f}",
            flush=True,
        )


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
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    register_detector("stub", lambda options, photos: Stub())
    if args.measure:
        return memory(*args.measure)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if args.photos:
            speed(make_photos(scratch / "photos", args.photos), scratch, args.photos)
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
