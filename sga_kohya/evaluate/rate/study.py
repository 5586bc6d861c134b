"""The human study: which pictures each rater ranks, in which order, and the log of the answers."""

import hashlib
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sga_kohya.errors import SgaError
from sga_kohya.evaluate.plan.plan import Cell, Plan
from sga_kohya.evaluate.rate.ballots import (
    Ballot,
    Trial,
    all_trials,
    balanced_orders,
    is_ballot,
    moved,
    refuse_foreign,
)
from sga_kohya.evaluate.sample.images import load, same_size
from sga_kohya.kit.journal import Journal, read_rows

CONSENT = (
    "You will see groups of pictures made by image models and rank them. Your rankings, the time each one takes and "
    "the rater id you choose are kept on the computer of whoever runs this study, and nothing else about you. Taking "
    "part is voluntary; you may stop at any time by closing the page."
)


@dataclass(frozen=True)
class Item:
    """What one rater sees at once. name: its place, which tells nothing. order: variants, or spoilt-0, spoilt-1, …"""

    name: str
    kind: str
    trial: Trial
    order: tuple[str, ...]


def chosen_trials(plan: Plan) -> list[Trial]:
    """The trials that every rater sees, so that raters can be compared: by default one seed of each prompt."""
    generator = np.random.default_rng(plan.seed)
    trials = all_trials(plan)
    shuffled = [trials[place] for place in generator.permutation(len(trials))]
    one_each = {(trial.dataset, trial.prompt): trial for trial in shuffled}
    if not plan.human.trials:
        return sorted(one_each.values(), key=lambda t: (t.dataset, t.prompt))
    # Each prompt once before any twice, and the datasets in turn.
    turn: dict[Any, int] = {}
    ranked = []
    for trial in shuffled:
        seen = turn[trial.dataset, trial.prompt] = turn.get((trial.dataset, trial.prompt), -1) + 1
        place = turn[trial.dataset] = turn.get(trial.dataset, -1) + 1
        ranked.append((seen, place, trial))
    ranked.sort(key=lambda entry: entry[:2])
    return [trial for *_, trial in ranked[: plan.human.trials]]


def items_for(plan: Plan, rater: str) -> list[Item]:
    """The rater's own order of trials and pictures; the same whenever it is asked for."""
    generator = np.random.default_rng([plan.seed, *rater.encode()])
    trials = chosen_trials(plan)
    trials = [trials[place] for place in generator.permutation(len(trials))]
    orders = balanced_orders(plan.variant_names, len(trials), generator)
    items = [Item("", "main", trial, order) for trial, order in zip(trials, orders, strict=True)]
    # A repeat comes late, and of the first half, so that it is not remembered.
    early = generator.permutation((len(items) + 1) // 2)[: plan.human.repeats]
    repeats = [Item("", "repeat", items[place].trial, moved(items[place].order)) for place in early]
    attention = []
    for _ in range(plan.human.attention):
        levels = generator.permutation(len(plan.variants))
        trial = trials[int(generator.integers(len(trials)))]
        attention.append(Item("", "attention", trial, tuple(f"spoilt-{level}" for level in levels)))
    late = len(items) // 2
    items = _spread(items[:late] + _spread(items[late:], repeats), attention)
    return [replace(item, name=str(place)) for place, item in enumerate(items, 1)]


def _spread(items: list[Item], inserted: list[Item]) -> list[Item]:
    """`inserted` at equal distances among `items`, the last one near the end."""
    result = list(items)
    for number, item in reversed(list(enumerate(inserted, 1))):
        result.insert(len(items) * number // (len(inserted) + 1) + 1, item)
    return result


def candidates(plan: Plan, files: Mapping[Cell, Path], item: Item) -> list[Image.Image]:
    """The pictures of an item, of one size and without metadata."""
    if item.kind != "attention":
        cells = [Cell(item.trial.dataset, name, item.trial.prompt, item.trial.seed) for name in item.order]
        return same_size([load(files[cell]) for cell in cells], plan.human.size)
    cell = Cell(item.trial.dataset, plan.variant_names[0], item.trial.prompt, item.trial.seed)
    (image,) = same_size([load(files[cell])], plan.human.size)
    return [spoil(image, int(level.removeprefix("spoilt-"))) for level in item.order]


def spoil(image: Image.Image, level: int) -> Image.Image:
    """The picture with fewer pixels: 0 as it is, 1 and more ever coarser."""
    if level == 0:
        return image
    factor = max(image.size) / max(2, 48 // level)
    small = image.resize((max(1, round(image.width / factor)), max(1, round(image.height / factor))))
    return small.resize(image.size, Image.Resampling.NEAREST)


def passed(ballot: Ballot) -> bool:
    """Whether an attention item was answered by looking: the whole picture is first, alone."""
    ranks = ballot.ranks["overall"]
    whole = ranks[ballot.order.index("spoilt-0")]
    return [rank <= whole for rank in ranks].count(True) == 1


class Log:
    """What raters said: a Journal, kept in memory as far as it decides what is asked next. Safe for several threads."""

    def __init__(self, plan: Plan) -> None:
        self.path, self.lock = log_file(plan), threading.Lock()
        rows, self.torn = events(self.path)
        if rows and rows[0].get("digest") != digest(plan):
            raise SgaError(f"{self.path} belongs to another study than this plan's: rename it, or change `out`")
        self.answered = {(row["rater"], row["item"]) for row in rows if row["event"] == "answer"}
        self.raters = {row["rater"] for row in rows if row["event"] == "consent"}
        self.journal = Journal(self.path)
        if not rows:
            self._append({"event": "study", "digest": digest(plan)})

    def consent(self, rater: str) -> None:
        """Raises OSError when it could not be kept; so does `answer`."""
        with self.lock:
            if rater not in self.raters:
                self._append({"event": "consent", "rater": rater})
                self.raters.add(rater)

    def answer(self, rater: str, item: Item, ranks: tuple[int, ...], seconds: float) -> bool:
        """False when the rater has answered this item already; the first answer stands."""
        with self.lock:
            if (rater, item.name) in self.answered:
                return False
            ballot = Ballot(rater, item.kind, item.trial, item.order, {"overall": ranks}, seconds)
            self._append({"event": "answer", "item": item.name, **ballot.to_json()})
            self.answered.add((rater, item.name))
            return True

    def left(self, plan: Plan, rater: str) -> list[Item]:
        return [item for item in items_for(plan, rater) if (rater, item.name) not in self.answered]

    def close(self) -> None:
        self.journal.close()

    def _append(self, row: dict[str, Any]) -> None:
        self.journal.append({"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **row})


def events(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The rows of a log that are whole, and how many lines are none of them."""
    rows, torn = read_rows(path)
    whole = [row for row in rows if _is_event(row)]
    return whole, torn + len(rows) - len(whole)


def _is_event(row: Mapping[str, Any]) -> bool:
    if row.get("event") == "answer":
        return is_ballot(row) and isinstance(row.get("item"), str)
    return row.get("event") == "study" or (row.get("event") == "consent" and isinstance(row.get("rater"), str))


def digest(plan: Plan) -> str:
    """Of whatever decides which item a place is, so that answers are never continued under another plan."""
    shown = [(dataset.name, dataset.prompts) for dataset in plan.datasets]
    human = {key: value for key, value in asdict(plan.human).items() if key in ("trials", "attention", "repeats")}
    halves = ["by halves"] * (len(plan.variants) % 2)  # of an odd number; version 0.1 dealt their orders in another way
    content = json.dumps([plan.seed, plan.seeds, shown, plan.variant_names, human, *halves])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def log_file(plan: Plan) -> Path:
    return plan.out / "human" / "ratings.jsonl"


def read(plan: Plan) -> list[Ballot]:
    """The raters' answers; empty before there are any."""
    path = log_file(plan)
    ballots = [Ballot.from_json(row) for row in events(path)[0] if row["event"] == "answer"]
    refuse_foreign(plan, ballots, path)
    return ballots


def check(plan: Plan) -> None:
    """Raises SgaError where the study cannot be made."""
    if plan.human.trials > len(all_trials(plan)):
        raise SgaError(f"[human]: trials = {plan.human.trials} is more than the {len(all_trials(plan))} of the plan")
    read(plan)
