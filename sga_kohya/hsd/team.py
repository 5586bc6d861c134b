"""Several processes that fill one OUT, on one machine or on many, as torchrun and accelerate launch start them.

Process 0 decides what each cuts, cuts its own share like the others, and at the end goes over everything as any
later run would: it takes over what the others have finished, and does what one of them has left. All that they tell
each other is in files of OUT/.sga_processes: a lock for as long as a process lives, process 0's invitation, the others'
answers, what each is to cut, and their journals. Whoever dies, or is killed with all of them, leaves what any later run
takes over.
"""

import json
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import filelock

from sga_kohya.errors import SgaError
from sga_kohya.hsd.out.ledger import JOURNAL, SHARES
from sga_kohya.kit.files import write_whole

PAUSE = 0.1
"""Seconds between two looks at what another process has done."""
LOOK = 1.0
"""Seconds between two looks at how far the others are."""
PATIENCE = 600
"""Seconds that processes may start apart."""
SILENCE = 20
"""Seconds of them in which nothing is said."""
BLOCK = 32
"""Sources in a row that one process cuts, at most: near-duplicates mostly lie side by side, and best meet in one."""

GRACE = 60
"""Seconds of them, where process 0 has been here before and has ended."""
STARTED = time.time()
ENDED = "process 0 has ended, and told why: the same command goes on from here"

Item = tuple[str, str]
"""A source, photo or clip, and its root."""


@dataclass(frozen=True)
class Process:
    """One of `size` processes, by its rank from 0; `beside`: those of one machine. out: absolute."""

    rank: int
    size: int
    beside: int

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Process | None":
        """As torchrun and accelerate launch tell it; None where there is only one."""
        with suppress(KeyError, ValueError):
            rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
            beside = int(environment.get("LOCAL_WORLD_SIZE", size))
            return cls(rank, size, max(1, beside)) if 0 <= rank < size > 1 else None
        return None

    @property
    def name(self) -> str:
        return f"process {self.rank} of {self.size}"


def refuse_others(out: Path, process: Process | None = None) -> None:
    """Processes of an earlier run may still cut, though its process 0 is dead. Raises SgaError."""
    later = process.size if process else 0
    for lock in (out / SHARES).glob("*.lock"):
        if lock.stem.isdigit() and int(lock.stem) >= later and _is_held(lock):
            raise SgaError(f"process {lock.stem} of an earlier run still writes into {out}: wait for its end")


def clear(out: Path) -> None:
    """What processes told each other: all that they have made is in the manifest now."""
    shutil.rmtree(out / SHARES, ignore_errors=True)


class Leader:
    """Process 0. run: the name of this run."""

    def __init__(self, out: Path, process: Process) -> None:
        self.out, self.process, self.folder, self.run = out, process, out / SHARES, secrets.token_hex(8)
        self._others = range(1, process.size)
        self._read: dict[Path, int] = {}
        """How far each other journal was read."""
        self._next_look = 0.0

    @contextmanager
    def leading(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with _alive(self.folder, 0):
            write_whole(self.folder / "run.json", json.dumps({"run": self.run}))
            try:
                yield
            except BaseException:
                # For those that come later than this, and would wait.
                write_whole(self.folder / "run.json", json.dumps({"run": self.run, "ended": time.time()}))
                raise

    def hand_out(self, *kinds: Sequence[Item]) -> list[Item]:
        """Waits for all others, gives each what it is to cut, and returns what is left for this one.

        kinds: of each kind all, in order; every process gets its part of each. Raises SgaError where one of the others
        does not come.
        """
        tokens = {rank: self._answer(rank) for rank in self._others}
        parts = [split(items, self.process.size) for items in kinds]
        shares = [list(chain(*own)) for own in zip(*parts, strict=True)]
        for rank, token in tokens.items():
            journal = self.folder / f"{rank}.jsonl"
            self._read[journal] = journal.stat().st_size if journal.is_file() else 0
            lines = [{"run": self.run, "token": token}, *shares[rank]]
            write_whole(self.folder / f"{rank}.share", "".join(json.dumps(line) + "\n" for line in lines))
        return shares[0]

    def _answer(self, rank: int) -> str:
        begin, told, who = time.monotonic(), False, f"process {rank} of {self.process.size}"
        while True:
            answer = _read(self.folder / f"{rank}.json")
            if answer.get("run") == self.run:
                return str(answer["token"])
            waited = time.monotonic() - begin
            if waited > PATIENCE:
                raise SgaError(
                    f"{who} has not come to {self.out} in {PATIENCE // 60} minutes: all processes need this same "
                    "folder, with file locks, and the same command; to start one alone, unset WORLD_SIZE"
                )
            if waited > SILENCE and not told:
                print(f"waiting for {who}, of which WORLD_SIZE tells", file=sys.stderr)
                told = True
            time.sleep(PAUSE)

    def finished(self, now: bool = False) -> list[str]:
        """Sources that the others have finished since the last time. now: not only if that was a while ago."""
        if not now and time.monotonic() < self._next_look:
            return []
        self._next_look = time.monotonic() + LOOK
        return [source for journal in self._read for source in self._sources(journal)]

    def _sources(self, journal: Path) -> list[str]:
        if not journal.is_file():
            return []
        with journal.open("rb") as file:
            file.seek(self._read[journal])
            lines = file.read()
        whole = lines[: lines.rfind(b"\n") + 1]
        self._read[journal] += len(whole)
        return [json.loads(line)["source"] for line in whole.split(b"\n") if line.startswith(b'{"source"')]

    def awaited(self) -> list[int]:
        """The others that are alive."""
        return [rank for rank in self._others if _is_held(self.folder / f"{rank}.lock")]

    def lost(self) -> list[int]:
        """The others that have ended before their share was done."""
        return [rank for rank in self._others if _read(self.folder / f"{rank}.done").get("run") != self.run]


class Worker:
    """Any other process."""

    def __init__(self, out: Path, process: Process) -> None:
        self.out, self.process, self.folder, self.run = out, process, out / SHARES, ""
        self._token = secrets.token_hex(8)
        self._begin = time.monotonic()

    @contextmanager
    def working(self) -> Iterator[list[Item]]:
        """Waits for process 0, and gives what this one is to cut. Raises SgaError where there is none any more."""
        while not self.folder.is_dir():
            self._wait()
        with _alive(self.folder, self.process.rank):
            yield self._share()
            write_whole(self.folder / f"{self.process.rank}.done", json.dumps({"run": self.run}))
            if not self._is_led():
                raise SgaError("process 0 has ended: this share is done, the same command goes on with the rest")

    def _share(self) -> list[Item]:
        led = False
        while True:
            told = _read(self.folder / "run.json")
            run = str(told.get("run", ""))
            if self._is_over(float(told.get("ended", 0))):
                raise SgaError(ENDED)
            if run != self.run:
                self.run = run
                write_whole(self._file("json"), json.dumps({"run": run, "token": self._token}))
            items = self._given()
            if items is not None:
                return items
            if self._is_led():
                led = True
            elif led:
                raise SgaError(ENDED)
            self._wait(forever=led)

    def _is_over(self, ended: float) -> bool:
        """Whether a process 0 that has ended was this run's: the next one would come soon after this process."""
        waited = time.monotonic() - self._begin
        return ended > STARTED or (ended > STARTED - PATIENCE and waited > GRACE and not self._is_led())

    def _given(self) -> list[Item] | None:
        """What process 0 has written for this very process; None as long as it has not."""
        with suppress(OSError), self._file("share").open(encoding="utf-8") as lines:
            if json.loads(next(lines, "{}")).get("token") == self._token:
                return [(source, root) for source, root in map(json.loads, lines)]
        return None

    def _file(self, suffix: str) -> Path:
        return self.folder / f"{self.process.rank}.{suffix}"

    def _is_led(self) -> bool:
        return _is_held(self.folder / "0.lock")

    def _wait(self, forever: bool = False) -> None:
        if not forever and time.monotonic() - self._begin > PATIENCE:
            raise SgaError(
                f"process 0 has not come to {self.out} in {PATIENCE // 60} minutes: all processes need this same "
                "folder, with file locks, and the same command"
            )
        time.sleep(PAUSE)


def journal_of(rank: int | None) -> str:
    """Of one of several processes that does its share, None for who does all; below OUT."""
    return JOURNAL if rank is None else f"{SHARES}/{rank}.jsonl"


def split(items: Sequence[Item], size: int) -> list[list[Item]]:
    """To so many processes, block by block in turn, so that each gets large ones and small ones."""
    block = max(1, min(BLOCK, len(items) // (4 * size)))
    shares: list[list[Item]] = [[] for _ in range(size)]
    for i in range(0, len(items), block):
        shares[i // block % size] += items[i : i + block]
    return shares


@contextmanager
def _alive(folder: Path, rank: int) -> Iterator[None]:
    """Holds the lock that says so. Waits a while for one of an earlier run, which may be about to end."""
    lock = filelock.FileLock(folder / f"{rank}.lock")
    try:
        lock.acquire(timeout=PATIENCE)
    except filelock.Timeout:
        raise SgaError(f"process {rank} of an earlier run still writes beside {folder}: end it") from None
    except (OSError, NotImplementedError) as error:
        raise SgaError(f"{folder} has no file locks ({error}), which several processes need: start one alone") from None
    try:
        yield
    finally:
        lock.release()


def _is_held(path: Path) -> bool:
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return True
    except OSError:  # the folder has gone
        return False
    lock.release()
    return False


def _read(path: Path) -> dict[str, Any]:
    """{} for what is not there, or not yet whole."""
    with suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads(path.read_bytes())
        return found
    return {}
