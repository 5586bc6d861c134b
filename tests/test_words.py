"""Each word that two parts must spell alike stands once, and no word stands there for one part alone."""

import ast
from pathlib import Path

import pytest

from sga_kohya import words

from .test_imports import PACKAGE, imported, modules

WORDS = {name: value for name, value in vars(words).items() if name.isupper()}
# Also a word of others: the key of a row, an interpolation.
COMMON = {words.ATTRIBUTE, words.LINEAR}


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("word", WORDS)
def test_every_word_is_used_by_two_parts(word):
    parts = {part_of(path) for path in modules() if f"sga_kohya.words.{word}" in imported(path)}
    assert len(parts) > 1, f"{word} is used by {parts or 'nobody'}: move it there"


def written(path: Path) -> set[str]:
    """Texts that stand in a file as they are; not those inside a longer one, nor the descriptions below names."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in alone)
    return {node.value for node in texts if isinstance(node.value, str)}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_spells_such_a_word_by_itself(path):
    if path.name != "words.py":
        own = {value for value in WORDS.values() if isinstance(value, str)} - COMMON
        assert not written(path) & own
