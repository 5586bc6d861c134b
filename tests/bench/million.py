"""What H-SD does for a million photos beside looking at them: CPU seconds and memory of each step, for several counts.

    python tests/bench/million.py [--photos 10000 100000 1000000] [--folder /where/there/is/room]

No photo is there and no slice is written: rows as a real run makes them, three slices and a discard of each photo, go
through the order, the names, the near-duplicates, the journal, the manifest, the counts, the dataset files and the
report, and then once more, as a later run takes them over. Each count has a process of its own. Peak memory is what it
grows by beyond the imports; a million photos need 15 GB on the disk for a while.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

from sga_kohya.hsd import HsdConfig
from sga_kohya.hsd.job import slice_folders
from sga_kohya.hsd.kits import make_kits
from sga_kohya.hsd.masks.sources import Masks
from sga_kohya.hsd.out.dataset import dataset_of
from sga_kohya.hsd.out.exports import texts
from sga_kohya.hsd.out.files import digest
from sga_kohya.hsd.out.manifest import Row
from sga_kohya.hsd.out.names import assign_roots
from sga_kohya.hsd.out.output import OutputFolder
from sga_kohya.hsd.out.report import write_report
from sga_kohya.hsd.out.tally import Tally
from sga_kohya.hsd.photos.filters.near_duplicates import NearDuplicates
from sga_kohya.hsd.photos.images import Header
from sga_kohya.hsd.photos.photo import Photo
from sga_kohya.hsd.settings.config_file import to_toml

order_module = import_module("sga_kohya.hsd.order")

SIDES = (800, 1200, 1800, 2400, 4000)
COPIES = 20
"""Of so many photos one nearly equals the one before."""
LEVELS = {"macro": (1024, 1024), "meso": (896, 1152), "micro": (640, 640)}


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Steps:
    """CPU seconds of each, and the peak of memory behind it."""

    def __init__(self) -> None:
        self.begin, self.found = megabytes(), {}

    def __call__(self, name: str, function: Callable, *arguments: object) -> object:
        start = time.process_time()
        made = function(*arguments)
        self.found[name] = [time.process_time() - start, megabytes() - self.begin]
        return made


def side(i: int) -> int:
    return SIDES[i * 7 % len(SIDES)]


def hashed(i: int) -> str:
    """64 bits; one of COPIES differs from the one before in three of them."""
    copy = i % COPIES == COPIES - 1
    bits = random.Random(i - copy).getrandbits(64)
    return f"{bits ^ (0b10010001 if copy else 0):016x}"


def rows_of(source: str, root: str, phash: str, size: int) -> list[Row]:
    told = {"source": source, "source_sha256": digest(source.encode()), "source_size": (size, size), "phash": phash}
    told |= {"root": root, "group": root, "inputs": digest(root.encode()), "guessed_caption": "photo", "reason": None}
    kept = [
        Row(
            **told,
            file=f"1_{level}/{root}.png",
            parent=None if level == "macro" else f"1_macro/{root}.png",
            granularity=level,
            box=[0, 0, *sizes],
            score=None if level == "macro" else 0.731,
            detector=None if level == "macro" else "heuristic",
            scale=round(sizes[0] / size, 4),
            size=sizes,
            sha256=digest(f"{level}{root}".encode()),
            bytes=size * size,
            **dict.fromkeys(("caption_sha256", "strip_sha256", "view_sha256", "captioned"), digest(root.encode())),
        )
        for level, sizes in LEVELS.items()
    ]
    lost = {"granularity": "micro", "box": [0, 0, 300, 300], "reason": "too small: 300x300 reaches no size of micro"}
    return [*kept, Row(**{**told, **lost})]


def cut(
    folder: OutputFolder, order: list[tuple[str, int]], roots: dict[str, str], config: HsdConfig, new: bool
) -> Tally:
    """As the pipeline does it, but for pixels and for slices."""
    tally, judge, kit = Tally(LEVELS), NearDuplicates(config.near_duplicates), make_kits(config, Path())[""]
    for source, size in order:
        phash = hashed(int(source[-11:-4]))
        photo = Photo(source, roots[source], kit, phash=phash)
        reason = judge(photo)
        if reason:
            rows = [Row(**photo.origin.__dict__, granularity="macro", reason=reason)]
        elif new:
            rows = rows_of(source, roots[source], phash, size)
            for row in rows[:3]:
                folder.ledger.announce({str(row.file): str(row.sha256), f"{row.file}.txt": str(row.caption_sha256)})
        else:
            rows = folder.ledger.rows(source)
        if not reason:
            judge.used(photo)
        folder.done(rows, new or bool(reason))
        tally.add(rows, new)
    return tally


def measure(count: int, out: Path) -> dict[str, list[float]]:
    config, step = HsdConfig(), Steps()
    sources = [f"folder{i // 1000:04d}/photo{i:07d}.jpg" for i in range(count)]
    step("list of names", list, sources)

    def headers(photos: Path, sources: list[str], pool: object) -> Iterator[tuple[str, Header]]:
        return ((source, Header(side(i) ** 2, side(i))) for i, source in enumerate(sources))

    order_module.read_headers = headers
    job = SimpleNamespace(
        photos=Path(), workers=1, config=config, progress=False, decisions=SimpleNamespace(sources=set())
    )
    order = step("order", lambda: list(order_module.in_order(job, sources)))
    roots = step("roots", assign_roots, sources)
    folders = slice_folders(config, Masks(), out)
    folder = OutputFolder(out, folders)
    tally = step("near-duplicates, journal, counts", cut, folder, order, roots, config, True)
    step("manifest, dataset files", folder.finish, texts(dataset_of(config, out, tally), []), to_toml(config))
    step("report", write_report, out, config, tally)
    folder = step("a later run reads it", OutputFolder, out, folders)
    again = step("and takes it over", cut, folder, order, roots, config, False)
    swept = step("and writes it again", folder.finish, texts(dataset_of(config, out, again), []), to_toml(config))
    assert swept.removed == 0 and again.group_sizes == tally.group_sizes and tally.lost
    return step.found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, help="for the files (default: the system's for temporary files)")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(int(args.measure[0]), Path(args.measure[1]))))
        return
    for count in args.photos:
        with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
            command = [sys.executable, __file__, "--measure", str(count), f"{scratch}/out"]
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        seconds, peak = sum(seconds for seconds, _ in found.values()), max(memory for _, memory in found.values())
        print(f"{count:,} photos: {seconds:.0f} CPU s, peak {peak:.0f} MB, {peak * 2**20 / count:.0f} bytes a photo")
        for name, (seconds, memory) in found.items():
            print(f"  {name:<34}{seconds:>8.1f} s {memory:>7.0f} MB", flush=True)


if __name__ == "__main__":
    main()
