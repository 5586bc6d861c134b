"""A script of the host in a process of its own: its output read as it comes, and its whole tree ended with it."""

import collections
import contextlib
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, cast

PATIENCE = 10.0
"""Seconds between asking a process to end and ending it."""


class Process:
    """Also ends what the process has started itself: a launcher that is killed leaves its trainer on the GPU."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """environment: beside one's own."""
        said_at_once = {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | said_at_once | dict(environment or {}),
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # its own group, by which it is ended
        )
        # Pipes were asked for, so both are there.
        self.said, self.heard = cast(IO[str], self.process.stdout), cast(IO[str], self.process.stdin)
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._last: collections.deque[str] = collections.deque(maxlen=25)
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            _end(self.process, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(PATIENCE)
            _end(self.process, getattr(signal, "SIGKILL", signal.SIGTERM))  # whoever of its group is left
            self.process.wait()

    def _read(self) -> None:
        for line in self.said:
            self._last.append(line.rstrip())
            self._lines.put(line)
        self._lines.put(None)

    def say(self, line: str) -> None:
        # Where it has ended, the next wait says so.
        with contextlib.suppress(OSError):
            self.heard.write(f"{line}\n")
            self.heard.flush()

    def lines(self) -> Iterator[str]:
        """What it says, until it ends; each state of a progress bar is a line."""
        while (line := self._lines.get()) is not None:
            yield line

    def wait_for(self, words: str) -> bool:
        """Whether these words came before the script ended."""
        return any(words in line for line in self.lines())

    def runs(self, seconds: float) -> bool:
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def wait(self) -> int:
        return self.process.wait()

    def tail(self) -> str:
        return "\n".join(self._last)


def _end(process: "subprocess.Popen[str]", number: int) -> None:
    with contextlib.suppress(OSError):
        if os.name == "nt":
            # The same process tree by Windows' own means.
            command = ["taskkill", "/T", "/F", "/PID", str(process.pid)]
            subprocess.run(command, capture_output=True, check=False)
        else:
            os.killpg(process.pid, number)
