"""Stages 3 and 4: the runs of the grid, journaled one by one, so that any stop leaves a valid study.

A *cell* is one ground: a model, what of it is trained, a domain, what captions say. In a cell every arm is run at every
rate with the choosing seeds; its best rate is the one of least held-out error on the half for choosing, and where that
is the end of the grid the grid is extended. Then all other seeds run at the arm's own best rate and at the common rate,
which is the best one of h-sd, stock practice on slices. What is reported is measured on the other half.
"""

import platform
import random
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from sga_kohya.errors import SgaError
from sga_kohya.kit.journal import Journal, read_rows
from sga_kohya.tuples.planner import VERSION
from tests.bench.evidence import corpora, measures
from tests.bench.evidence.arms import ARMS, Material, sub_batches
from tests.bench.evidence.corpora import LEVELS, Domain
from tests.bench.evidence.fleet import Fleet, Member, Trained
from tests.bench.evidence.ground import Ground, Judge, make_ground, make_judge

STOCK = "h-sd"
TWICE = 2.0
"""Neighbouring rates of the grid."""
MOST_EXTENSIONS = 2


@dataclass(frozen=True)
class Size:
    """passes: at which a run is measured, forward and backward passes of batch_size; the last ends it, the last but one
    is the paper's N1, of which the last is 1.5 times. models: trained side by side. wide: the grid has another
    rate at each end from the start, which on a card costs less than one more round. choosing: of the seeds, the first.
    """

    name: str
    width: dict[str, int]
    pretraining: dict[str, int]
    passes: tuple[int, ...]
    batch_size: int
    models: int
    seeds: int
    choosing: int
    train_photos: int
    held_slices: int
    drawn: int
    pool: dict[str, int]
    wide: bool = False
    photos: int = corpora.PHOTOS
    broad: float = 1.0
    judge: int = 400


_CPU = Size(
    name="cpu",
    width={"dit": 64, "unet": 32},
    pretraining={"dit": 1500, "unet": 600},
    passes=(100, 200, 300),
    batch_size=4,
    models=8,
    seeds=6,
    choosing=2,
    train_photos=40,
    held_slices=10,
    drawn=32,
    pool={"dit": 1, "unet": 2},
)
_GPU = replace(
    _CPU,
    name="gpu",
    pretraining={"dit": 1500, "unet": 1500},
    models=160,
    seeds=10,
    choosing=3,
    held_slices=12,
    drawn=64,
    pool={"dit": 1, "unet": 1},
    wide=True,
)
_QUICK = replace(
    _CPU,
    name="quick",
    width={"dit": 32, "unet": 32},
    pretraining={"dit": 4, "unet": 2},
    passes=(2, 4, 6),
    batch_size=2,
    seeds=2,
    choosing=1,
    train_photos=6,
    held_slices=2,
    drawn=20,
    photos=18,
    broad=0.02,
    judge=4,
)
SIZES = {size.name: size for size in (_QUICK, _CPU, _GPU)}


@dataclass(frozen=True)
class Cell:
    """rank: 0 trains all weights. scale: whether captions say the granularity. rates: the grid to begin with."""

    model: str
    domain: str
    arms: tuple[str, ...]
    rates: tuple[float, ...]
    rank: int = 0
    scale: bool = False

    @property
    def name(self) -> str:
        form = f"rank {self.rank}" if self.rank else "all weights"
        return f"{self.model}, {self.domain}, {form}" + (", captions tell scale" if self.scale else "")


CONTROLS = ("accumulation", "stratified", "opposite", "one common")
MAIN = ("raw", "h-sd", "without tuples", "without modulation", "full")
NO_SMALL = ("h-sd, no small steps", "tuples, no small steps")
"""In no verdict: they came after the other runs had been seen, to find out what tuples lost by."""
CELLS = (
    Cell("dit", "drawings", (*MAIN, *CONTROLS), (5e-4, 1e-3)),
    Cell("unet", "drawings", (*MAIN, "one common"), (5e-4, 1e-3)),
    Cell("dit", "stamps", (*MAIN, *CONTROLS), (5e-4, 1e-3)),
    Cell("dit", "drawings", (*MAIN, "accumulation", "stratified", *NO_SMALL), (2e-3, 4e-3), rank=2),
    Cell("dit", "mixed", (*MAIN, "accumulation", "stratified", "opposite"), (5e-4, 1e-3)),
    Cell("dit", "drawings", (*MAIN, "accumulation", "stratified", "opposite"), (5e-4, 1e-3), scale=True),
)


@dataclass(frozen=True)
class Job:
    """One run."""

    cell: str
    arm: str
    lr: float
    seed: int


@dataclass
class Study:
    """All in OUT. corpora and pretrained models may be shared by sizes, and lie in CACHE."""

    out: Path
    cache: Path
    size: Size
    device: torch.device = torch.device("cpu")
    until: float = float("inf")
    """time.time() after which no more runs are begun."""
    _grounds: dict[str, Ground] = field(default_factory=dict)

    def prepare(self, domains: Iterable[str]) -> None:
        """The corpora, where they are lacking."""
        self.folder.mkdir(parents=True, exist_ok=True)
        wanted = {part for domain in domains for part in (corpora.DOMAINS if domain == "mixed" else [domain])}
        if all((self.folder / f"{name}.pt").is_file() for name in (*wanted, "broad")):
            return
        unpacked = corpora.packages(self.cache)
        corpora.make_broad(unpacked, self.folder, self.size.broad)
        for domain in sorted(wanted):
            corpora.make_domain(unpacked, domain, self.folder, self.size.photos)

    @property
    def folder(self) -> Path:
        return self.cache / f"corpora-{self.size.photos}-{self.size.broad:g}"

    @cached_property
    def judge(self) -> Judge:
        return make_judge(self.folder, self.size.judge)

    def ground(self, kind: str) -> Ground:
        if kind not in self._grounds:
            width, steps = self.size.width[kind], self.size.pretraining[kind]
            self._grounds[kind] = make_ground(kind, self.folder, width, self.size.pool[kind], steps, self.device)
        return self._grounds[kind]

    def run(self, cells: Sequence[Cell]) -> None:
        """Whatever the journals lack."""
        self.prepare(cell.domain for cell in cells)
        for cell in cells:
            for jobs in self._rounds(cell):
                if not self._run(cell, jobs):
                    return

    def rows(self, cell: Cell) -> list[dict[str, Any]]:
        rows, _ = read_rows(self._journal(cell))
        return rows

    def _journal(self, cell: Cell) -> Path:
        return self.out / f"{cell.name.replace(', ', '-').replace(' ', '_')}.jsonl"

    def _rounds(self, cell: Cell) -> Iterator[list[Job]]:
        """The grid, its extensions as they turn out to be needed, and then the seeds that report."""
        choosing, others = range(self.size.choosing), range(self.size.choosing, self.size.seeds)
        grid = [min(cell.rates) / TWICE, *cell.rates, max(cell.rates) * TWICE] if self.size.wide else cell.rates
        rates = {arm: list(grid) for arm in cell.arms}
        for _ in range(1 + MOST_EXTENSIONS):
            yield [Job(cell.name, arm, lr, seed) for arm in cell.arms for lr in rates[arm] for seed in choosing]
            best = self._best(cell, rates)
            for arm, known in rates.items():
                known += [lr for lr in _beyond(best[arm], known) if lr not in known]
        best = self._best(cell, rates)
        wanted = {arm: {best[arm], best.get(STOCK, best[arm])} for arm in cell.arms}
        yield [
            Job(cell.name, arm, lr, seed)
            for seed in (*choosing, *others)
            for arm in cell.arms
            for lr in sorted(wanted[arm])
        ]

    def _best(self, cell: Cell, rates: dict[str, list[float]]) -> dict[str, float]:
        """Among the rates so far: an earlier run may have left others, and must not change what is done next."""
        rows = [row for row in self.rows(cell) if row["lr"] in rates.get(row["arm"], ())]
        return best_rates(rows, self.size.choosing)

    def _run(self, cell: Cell, jobs: Sequence[Job]) -> bool:
        """False where time is over."""
        rows = self.rows(cell)
        done = {_key(row) for row in rows}
        left = [job for job in jobs if job not in done]
        if left and (older := next((row for row in rows if row.get("plan") != VERSION), None)):
            raise SgaError(
                f"{self._journal(cell)}: its runs are of plans of version {older.get('plan', '3 or less')} and others "
                f"would be of {VERSION}, which are no pairs: give another OUT"
            )
        journal = Journal(self._journal(cell))
        try:
            for at in range(0, len(left), self.size.models):
                if time.time() > self.until:
                    return False
                began, chunk = time.perf_counter(), left[at : at + self.size.models]
                for row in self._chunk(cell, chunk):
                    journal.append(row)
                print(
                    f"{cell.name}: {at + len(chunk)}/{len(left)} of this round, {len(chunk)} runs in "
                    f"{time.perf_counter() - began:.0f} s",
                    flush=True,
                )
        finally:
            journal.close()
        return True

    def _chunk(self, cell: Cell, jobs: Sequence[Job]) -> list[dict[str, Any]]:
        """Runs side by side."""
        ground, domain, began = self.ground(cell.model), corpora.load_domain(self.folder, cell.domain), time.time()
        splits = {seed: Split(domain, ground, self.size, seed, cell.scale) for seed in {job.seed for job in jobs}}
        seeds = [job.seed for job in jobs]
        held = [splits[job.seed].held for job in jobs]
        members = [splits[job.seed].member(ground, job, self.size) for job in jobs]
        trained = Trained(ground.stack.denoiser, cell.rank)
        fleet = Fleet(ground.stack.denoiser, trained, members, ground.text, self.size.batch_size)
        curves: list[list[dict[str, Any]]] = [[] for _ in jobs]
        for at in self.size.passes:
            fleet.train(at - fleet.passes)
            for curve, errors in zip(curves, measures.held_out(fleet, ground, held, seeds), strict=True):
                curve.append({"passes": at, **errors})
        drawn = measures.samples(fleet, ground, held, seeds)
        parts = zip(
            jobs,
            curves,
            fleet.smoothness(),
            measures.retention(fleet, ground, seeds),
            measures.conflict(fleet, ground, held, seeds),
            [measures.of_samples(some, one, self.judge) for some, one in zip(drawn, held, strict=True)],
            strict=True,
        )
        how = {"seconds": (time.time() - began) / len(jobs), "device": name_of(self.device), "plan": VERSION}
        return [
            {**asdict(job), "curve": curve, **smooth, "retention": kept, "conflict": found, **seen, **how}
            for job, curve, smooth, kept, found, seen in parts
        ]


class Split:
    """One seed's photos: to train on, and held out in two halves; the same for every arm."""

    def __init__(self, domain: Domain, ground: Ground, size: Size, seed: int, scale: bool):
        rng = random.Random(f"split/{seed}")
        photos = rng.sample(domain.photos, len(domain.photos))
        self.train, rest = set(photos[: size.train_photos]), photos[size.train_photos :]
        self.material = Material(
            sorted(self.train), [(item, group) for item, group, photo in domain.slices if photo in self.train]
        )
        self.captions = dict(domain.captions)
        for item, _, photo in domain.slices:
            said = f", {corpora.SCALE_WORDS[str(item.granularity)]}" if scale else ""
            self.captions[item.key] = domain.captions[photo] + said
        keys = [*self.material.photos, *(item.key for item, _ in self.material.slices)]
        self.latents = dict(zip(keys, ground.codec.encode(torch.stack([domain.images[k] for k in keys])), strict=True))
        halves = dict(zip(measures.HALVES, (rest[: len(rest) // 2], rest[len(rest) // 2 :]), strict=True))
        chosen = {half: _held(domain, set(of), size.held_slices, rng) for half, of in halves.items()}
        self.held = measures.Held(
            latents={h: ground.codec.encode(torch.stack([domain.images[k] for k in ks])) for h, ks in chosen.items()},
            captions={half: [self.captions[key] for key in keys] for half, keys in chosen.items()},
            whole=torch.stack([domain.images[photo] for photo in rest]),
            slices=_shuffled([domain.images[s.key] for s, _, photo in domain.slices if photo not in self.train], rng),
            seen=_shuffled([domain.images[key] for key in keys], rng),
            prompts=[domain.captions[photo] for photo in rng.choices(rest, k=size.drawn)],
        )

    def load(self, keys: Sequence[str]) -> tuple[Tensor, list[str]]:
        return torch.stack([self.latents[key] for key in keys]), [self.captions[key] for key in keys]

    def member(self, ground: Ground, job: Job, size: Size) -> Member:
        arm = ARMS[job.arm]
        stream = sub_batches(arm, self.material, size.batch_size, job.seed)
        return Member(stream, ground.objective(arm.shift, arm.gamma), job.lr, job.seed, self.load)


def name_of(device: torch.device) -> str:
    """What a row says that it ran on; whoever writes the page may sit at another machine."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()})"


def _held(domain: Domain, photos: set[str], count: int, rng: random.Random) -> list[str]:
    """So many keys of each granularity, in LEVELS' order, again from the first where there are fewer."""
    found: list[str] = []
    for level in LEVELS:
        keys = [item.key for item, _, photo in domain.slices if photo in photos and item.granularity == level]
        rng.shuffle(keys)
        found += [keys[number % len(keys)] for number in range(count)]
    return found


def _shuffled(images: list[Tensor], rng: random.Random) -> Tensor:
    return torch.stack(rng.sample(images, len(images)))


def error_of(row: dict[str, Any], half: str, passes: int | None = None) -> float:
    """Mean over granularities and noise levels. passes: None for the end."""
    points = [point for point in row["curve"] if passes in (None, point["passes"])]
    return fmean(value for line in points[-1][half] for value in line)


def best_rates(rows: Sequence[dict[str, Any]], choosing: int) -> dict[str, float]:
    """Of each arm, by the choosing seeds' mean error on the half for choosing, at the end."""
    found: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["seed"] < choosing:
            found[row["arm"]][row["lr"]].append(error_of(row, measures.HALVES[0]))
    return {
        arm: min(rates, key=lambda lr: fmean(rates[lr]) if len(rates[lr]) == choosing else float("inf"))
        for arm, rates in found.items()
    }


def _beyond(best: float, grid: Sequence[float]) -> list[float]:
    """The next rate where the best one is the grid's first or last."""
    if best == max(grid):
        return [best * TWICE]
    return [best / TWICE] if best == min(grid) else []


def _key(row: dict[str, Any]) -> Job:
    return Job(row["cell"], row["arm"], row["lr"], row["seed"])
