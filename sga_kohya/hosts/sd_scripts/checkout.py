"""Find the sd-scripts checkout and see whether it is one we can work with, by looking at its files only."""

import ast
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from sga_kohya.errors import SgaError
from sga_kohya.hosts.host import HostPackage
from sga_kohya.kit.files import user_path

TESTED = "v0.10.0 to v0.11.1 and upstream dev of 2026-07-23"
MISSING = "run `pip install -r requirements.txt` in its checkout, or install sga-kohya with its extra `host`"
DEFAULT_FOLDER = Path("~/.cache/sga_kohya/sd-scripts")
CLONE = "git clone --branch v0.11.1 https://github.com/kohya-ss/sd-scripts"
HOW_TO_GET = f"{CLONE}, then pass --sd_scripts FOLDER or set SD_SCRIPTS_DIR=FOLDER"

# Forks with a training loop of their own, by a word that only their train_network.py has.
_FORKS = {
    "edm2_loss_weighting": "67372a/sd-scripts or a fork of it",
    "semantic_group": "okdsf/KohyaTest",
}


@dataclass(frozen=True)
class Checkout:
    """A folder that holds sd-scripts."""

    root: Path

    @property
    def package(self) -> HostPackage:
        """For seams; see hosts/seam.py."""
        return HostPackage("sd-scripts", "library", self.root, TESTED, MISSING)

    def script(self, name: str) -> Path:
        """The path of one of its training scripts.

        Raises SgaError when this version has none of that name, or when its loop is not upstream's.
        """
        path = self.root / name
        if not path.is_file():
            raise SgaError(f"{self.root} has no {name}; tested versions of sd-scripts are {TESTED}")
        # A network trainer runs the loop of train_network.py, a full fine-tune its own.
        for file in dict.fromkeys((self.root / "train_network.py", path)):
            _refuse_rewritten_loop(self.root, file)
        return path

    def version(self) -> str:
        """What git calls it, else what its layout says; for messages only."""
        if (self.root / ".git").exists():
            command = ["git", "-C", str(self.root), "describe", "--tags", "--always"]
            try:
                answer = subprocess.run(command, capture_output=True, timeout=10).stdout
                described = answer.decode("utf-8", "replace").strip()
            except (OSError, subprocess.SubprocessError):
                described = ""  # no git here; the layout will do
            if described:
                return described
        return "v0.11 or newer" if (self.root / "library" / "accelerator_setup.py").is_file() else "v0.10"


def find_checkout(named: str | None = None, option: str = "--sd_scripts") -> Checkout:
    """The checkout that was named, else SD_SCRIPTS_DIR, else the current folder, else ~/.cache/sga_kohya/sd-scripts.

    option: what named it. Raises SgaError when the first of these that is set is no checkout, when there is none, or
    when it is too old.
    """
    for origin, folder in ((option, named), ("SD_SCRIPTS_DIR", os.environ.get("SD_SCRIPTS_DIR"))):
        if folder:
            root = user_path(folder, origin)
            if not _is_checkout(root):
                raise SgaError(f"{origin} {folder}: this is no sd-scripts checkout{_hint(root)}; get one with: {CLONE}")
            return _supported(root)
    for root in (Path.cwd(), DEFAULT_FOLDER.expanduser()):
        if _is_checkout(root):
            return _supported(root)
    raise SgaError(f"sd-scripts was not found (nor in {Path.cwd()} and {DEFAULT_FOLDER}); get it with: {HOW_TO_GET}")


def _hint(root: Path) -> str:
    """Where a checkout is near by: people name a folder inside it, or the one that holds it."""
    root = Path(os.path.abspath(root))
    near = (*root.parents, *(child for child in sorted(root.glob("*")) if child.is_dir()))
    found = next(filter(_is_checkout, near), None)
    return f" (did you mean {found}?)" if found else ""


def _is_checkout(root: Path) -> bool:
    return (root / "train_network.py").is_file() and (root / "library" / "train_util.py").is_file()


def _supported(root: Path) -> Checkout:
    # v0.9.1 and older know no FLUX, and their training loop cannot be reached by seams.
    if not (root / "library" / "flux_train_utils.py").is_file():
        raise SgaError(
            f"{root} is sd-scripts v0.9.1 or older, which has no seams for SGA; tested are {TESTED}: "
            f"run `git checkout v0.11.1` there, or {HOW_TO_GET}"
        )
    return Checkout(root.resolve())


def _refuse_rewritten_loop(root: Path, file: Path) -> None:
    """Seams know the sub-batch in hand only inside accumulate(): a backward pass outside it would not be SGA."""
    text = file.read_text(encoding="utf-8", errors="replace")
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return  # Python says it better when the script runs
    loops = [node for node in ast.walk(tree) if isinstance(node, ast.With) and _accumulates(node)]
    reached = {id(node) for loop in loops for node in ast.walk(loop)}
    if all(id(node) in reached for node in ast.walk(tree) if _is_call(node, "backward")):
        return
    fork = next((name for word, name in _FORKS.items() if word in text), None) or _remote(root) or "a fork"
    raise SgaError(
        f"{root} is {fork}, not kohya-ss/sd-scripts: {file.name} has a training loop of its own, which "
        f"SGA cannot reach. Use a checkout of upstream ({TESTED}): {HOW_TO_GET}"
    )


def _accumulates(block: ast.With) -> bool:
    return any(_is_call(item.context_expr, "accumulate") for item in block.items)


def _is_call(node: ast.AST, method: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == method


def _remote(root: Path) -> str | None:
    """owner/name of where it was cloned from; None where git does not tell, or tells of upstream itself."""
    folder = root / ".git"
    if folder.is_file():  # a submodule's says where the real one is
        folder = root / folder.read_text(encoding="utf-8").partition("gitdir:")[2].strip()
    config = folder / "config"
    text = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else ""
    match = re.search(r'\[remote "origin"\][^\[]*?url\s*=\s*\S*?([\w.-]+/[\w.-]+?)(?:\.git)?\s', text + "\n")
    return match.group(1) if match and match.group(1) != "kohya-ss/sd-scripts" else None
