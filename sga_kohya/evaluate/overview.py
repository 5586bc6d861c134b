"""Progress and time left over all stages of a study, from what the stages before have taken."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from sga_kohya.kit.text import duration


class Overview:
    """waiting: the kinds of the stages to come, such as train, each as often as there are. rows: of the journal."""

    def __init__(self, waiting: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        self.waiting, self.total, self.number = Counter(waiting), len(waiting), 0
        self.taken: dict[str, list[float]] = {}
        for row in rows:
            if not row.get("failed") and isinstance(row.get("seconds"), int | float):
                self.taken.setdefault(str(row.get("stage")), []).append(float(row["seconds"]))
        self._begun, self._stage, self._bar = 0.0, "", tqdm(disable=True)

    @contextmanager
    def stage(self, kind: str, what: str) -> Iterator[None]:
        """One of the stages, while it lasts. what: for people, such as "full of alpha"."""
        self.number += 1
        self.waiting[kind] -= 1
        self._begun, self._stage = time.monotonic(), kind
        layout = "{desc}: {percentage:3.0f}%|{bar}| {postfix}"
        with tqdm(total=1.0, desc=f"[{self.number}/{self.total}] {kind} {what}", bar_format=layout) as self._bar:
            self._show(0.0)
            yield
            self._show(1.0)
        self.taken.setdefault(kind, []).append(self.seconds)

    @property
    def seconds(self) -> float:
        """Of the stage in hand."""
        return time.monotonic() - self._begun

    def share(self, done: float) -> None:
        """done: of the stage in hand, from 0 to 1."""
        self._show(done)

    def left(self, done: float) -> float | None:
        """Seconds to the end of all, None before anything is known. A kind that has not been yet counts as nothing."""
        now = self._whole(done)
        if now is None:
            return None
        later = (count * self._mean(kind, now) for kind, count in self.waiting.items())
        return now * (1 - done) + sum(later)

    def _whole(self, done: float) -> float | None:
        """Seconds of the whole stage in hand."""
        if done > 0:
            return self.seconds / done
        taken = self.taken.get(self._stage)
        return sum(taken) / len(taken) if taken else None

    def _mean(self, kind: str, now: float) -> float:
        taken = self.taken.get(kind, [])
        if kind == self._stage:
            taken = [*taken, now]
        return sum(taken) / len(taken) if taken else 0.0

    def _show(self, done: float) -> None:
        left = self.left(done)
        self._bar.set_postfix_str("" if left is None else f"about {duration(left)} left in all", refresh=False)
        self._bar.update(done - self._bar.n)
