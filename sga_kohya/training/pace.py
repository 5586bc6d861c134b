"""How long a run still takes, from the pictures that its first steps have trained.

Steps differ: a tuple holds as many sub-batches as it has granularities. Pictures do not, so they are counted. The first
steps, in which things are loaded and compiled, are left out. Sampling, validation and saving come on top.
"""

LEFT_OUT = 2
SAID_AFTER = 10
"""Steps."""


class Pace:
    """Of this process and this run; a resumed run begins a new one."""

    def __init__(self) -> None:
        self.steps = 0
        self._pictures = 0
        self._begun: tuple[float, int] | None = None

    def count(self, pictures: int) -> None:
        """A sub-batch of so many is handed out."""
        self._pictures += pictures

    def after_step(self, seconds: float) -> None:
        """An optimizer step ended. seconds: of training so far."""
        self.steps += 1
        self._now = seconds, self._pictures
        if self.steps == LEFT_OUT:
            self._begun = self._now

    @property
    def measured(self) -> tuple[float, int] | None:
        """Seconds of training and the pictures trained in them; None while too little is known."""
        if self._begun is None or self._now[1] <= self._begun[1]:
            return None
        return self._now[0] - self._begun[0], self._now[1] - self._begun[1]

    def left(self, pictures: float) -> float | None:
        """Seconds for so many more pictures; None while too little is known."""
        if self.measured is None:
            return None
        seconds, trained = self.measured
        return pictures * seconds / trained
