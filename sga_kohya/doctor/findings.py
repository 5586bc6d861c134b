"""What the doctor found: a level, a subject, a text that ends with the remedy."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sga_kohya.errors import SgaError
from sga_kohya.kit.text import safe

LEVELS = ("ok", "warning", "error")


@dataclass(frozen=True)
class Finding:
    level: str
    subject: str
    text: str


@dataclass
class Findings:
    """Grows as the doctor goes on. subject: what the next findings are about."""

    found: list[Finding] = field(default_factory=list)
    subject: str = ""

    def ok(self, text: str) -> None:
        self._add("ok", text)

    def warning(self, text: str) -> None:
        self._add("warning", text)

    def error(self, text: str) -> None:
        self._add("error", text)

    def _add(self, level: str, text: str) -> None:
        text = "\n".join(map(safe, text.split("\n")))
        # The plan repeats what was said of settings and captions.
        if all((finding.level, finding.text) != (level, text) for finding in self.found):
            self.found.append(Finding(level, self.subject, text))

    @contextmanager
    def about(self, subject: str) -> Iterator[None]:
        """What is raised inside becomes an error here, because one broken thing must not hide the others."""
        self.subject = subject
        try:
            yield
        except SgaError as error:
            self.error(str(error))
        # The host exits on some errors, and raises what it likes on others.
        except (Exception, SystemExit) as error:
            self.error(f"{type(error).__name__}: {error}")

    def count(self, level: str) -> int:
        return sum(finding.level == level for finding in self.found)

    def lines(self) -> Iterator[str]:
        """One a finding, in the order in which they were found."""
        width = max((len(finding.subject) for finding in self.found), default=0)
        for finding in self.found:
            indent = " " * (width + 12)
            yield f"{finding.level:<8}  {finding.subject:<{width}}  " + finding.text.replace("\n", f"\n{indent}")
