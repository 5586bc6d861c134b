"""HTML as a browser takes it apart, for tests that what a user wrote stays text."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

HOSTILE = "<script>alert(1)</script>&lt;\"'{{ 7 * 7 }}{% raw %}</style></title><!--${x}$title"
HOSTILE_NAME = HOSTILE.replace("/", "")
"""What can be a file's name."""


@dataclass
class Page(HTMLParser):
    """elements: names and names of attributes, in order. words: all text and values of attributes."""

    elements: list[tuple[str, ...]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, *(name for name, _ in attrs)))
        self.words += [value for _, value in attrs if value]

    def handle_endtag(self, tag: str) -> None:
        self.elements.append((f"/{tag}",))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_comment(self, data: str) -> None:
        self.elements.append(("comment",))


def taken_apart(text: str | Path) -> Page:
    page = Page()
    page.feed(text if isinstance(text, str) else text.read_text(encoding="utf-8"))
    page.close()
    return page


def assert_stays_text(hostile: str | Path, plain: str | Path, words: str = HOSTILE) -> None:
    """The two pages differ in words alone. plain: the same page of harmless words."""
    one, other = taken_apart(hostile), taken_apart(plain)
    assert one.elements == other.elements
    assert any(words in part for part in one.words)
