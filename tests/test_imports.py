"""Imports point one way: launchers, seams, tuples, equations, config and granularity; hsd meets training on disk."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sga_kohya"
BASE = {"config", "errors", "granularity", "kit", "options", "version"}
ALLOWED = {
    **dict.fromkeys(BASE - {"kit", "version", "errors"}, BASE),
    "kit": {"errors"},
    "version": set(),
    "errors": set(),
    "equations": BASE,
    "tuples": BASE | {"equations"},
    "training": BASE | {"equations", "tuples"},
    "hosts": BASE | {"equations", "tuples", "training"},
    "hsd": {"errors", "kit", "version"},
    "reference": BASE | {"equations", "tuples"},
    "partition": BASE | {"hsd"},
    "evaluate": {"errors", "kit", "hosts"},  # sd-scripts runs in processes of its own
    "demo": BASE | {"hsd", "tuples", "reference"},
    "launch": BASE | {"hosts"},
    "__main__": BASE | {"hosts"},
    "interference": BASE | {"equations", "tuples", "training", "hosts", "launch"},
    "spherical": BASE | {"equations", "reference", "hosts"},
    "doctor": BASE | {"launch", "hosts", "training"},
    "patched": BASE | {"launch", "hosts"},
    "presets": BASE,
    "doors": {"launch", "hosts"},
}
UPWARD = {"hosts/sd_scripts/samplers.py"}  # still to be turned round


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


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
        if path.relative_to(PACKAGE).as_posix() in UPWARD:
            continue
        parts = {name.split(".")[1] for name in imported(path) if name.startswith("sga_kohya.")}
        assert parts <= ALLOWED[part] | {part}, f"{path.relative_to(PACKAGE)} imports {parts - ALLOWED[part]}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_imports_the_host_by_name(path):
    """Seams resolve it at run time; an import statement would bind to whichever `library` is found first."""
    tops = {name.split(".")[0] for name in imported(path)}
    assert not tops & {"library", "train_network", "networks", "flux_train", "flux_train_network"}


def test_errors_of_words_need_no_torch():
    """A door must answer at once, so nothing heavy may be imported before the options were checked."""
    code = "import sys, sga_kohya.launch, sga_kohya.hosts.sd_scripts.checks; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
