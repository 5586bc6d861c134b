"""Imports point one way: launchers, seams, tuples, equations, config and granularity; hsd meets training on disk."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sga_kohya"
BASE = {"config", "errors", "granularity", "kit", "options", "version", "words"}
ALLOWED = {
    **dict.fromkeys(BASE - {"kit", "version", "words", "errors"}, BASE),
    "kit": {"errors"},
    "version": set(),
    "words": set(),
    "errors": set(),
    "equations": BASE,
    "tuples": BASE | {"equations"},
    "training": BASE | {"equations", "tuples"},
    "hosts": BASE | {"equations", "tuples", "training"},
    "hsd": {"errors", "kit", "version", "words"},
    "reference": BASE | {"equations", "tuples"},
    "partition": BASE | {"hsd"},
    "evaluate": BASE | {"hosts", "tuples"},  # sd-scripts runs in processes of its own
    "demo": BASE | {"hsd", "tuples", "reference"},
    "launch": BASE | {"hosts"},
    "__main__": BASE | {"hosts"},
    "interference": BASE | {"equations", "tuples", "training", "hosts", "launch"},
    "spherical": BASE | {"equations", "reference", "hosts"},
    "doctor": BASE | {"launch", "hosts", "training"},
    "patched": BASE | {"launch", "hosts"},
    "presets": BASE,
    "patch": BASE | {"hosts"},
    "doors": {"launch", "hosts"},
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@functools.cache
def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_a_part_imports_only_what_lies_below(part):
    files = [p for p in modules() if p.relative_to(PACKAGE).parts[0].removesuffix(".py") == part]
    assert files
    for path in files:
        parts = {name.split(".")[1] for name in imported(path) if name.startswith("sga_kohya.")}
        assert parts <= ALLOWED[part] | {part}, f"{path.relative_to(PACKAGE)} imports {parts - ALLOWED[part]}"


def name_of(path: Path) -> str:
    """The module's name: sga_kohya.kit for kit/__init__.py."""
    parts = (PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def arrows(files: dict[str, Path]) -> dict[str, set[str]]:
    """What each module imports of the others, in functions and for types too; of a package its `__init__` only."""
    return {name: (imported(path) & files.keys()) - {name} for name, path in files.items()}


def circles(graph: dict[str, set[str]]) -> set[tuple[str, ...]]:
    """Sets of two or more that reach each other, each as a sorted tuple."""

    def reached(start: str) -> set[str]:
        found, waiting = set(), [start]
        while waiting:
            new = graph[waiting.pop()] - found
            found |= new
            waiting += new
        return found

    reach = {name: reached(name) for name in graph}
    together = {name: {name, *(other for other in reach[name] if name in reach[other])} for name in graph}
    return {tuple(sorted(group)) for group in together.values() if len(group) > 1}


def test_circles_are_found_and_nothing_else():
    graph = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": set(), "f": {"a", "g"}, "g": {"f"}}
    assert circles(graph) == {("a", "b", "c"), ("f", "g")}


def test_no_files_import_each_other_in_a_circle():
    assert circles(arrows({name_of(path): path for path in modules()})) == set()


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_imports_the_host_by_name(path):
    """Seams resolve it at run time; an import statement would bind to whichever `library` is found first."""
    tops = {name.split(".")[0] for name in imported(path)}
    assert not tops & {"library", "train_network", "networks", "flux_train", "flux_train_network"}


def test_errors_of_words_need_no_torch():
    """A door must answer at once, so nothing heavy may be imported before the options were checked."""
    code = "import sys, sga_kohya.launch, sga_kohya.hosts.sd_scripts.checks; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
