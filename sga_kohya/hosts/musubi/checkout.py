"""Find musubi-tuner, a checkout or the installed package, and see whether it is one we can work with, by its files."""

import importlib.util
import os
from dataclasses import dataclass
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

from sga_kohya.errors import SgaError
from sga_kohya.hosts.host import HostPackage
from sga_kohya.hosts.musubi.families import HOST, SCRIPTS, refuse
from sga_kohya.kit.files import user_path
from sga_kohya.kit.toml_file import read_toml

TESTED = "v0.2.15 to v0.3.4 and main of 2026-07-14"
DEFAULT_FOLDER = Path("~/.cache/sga_kohya/musubi-tuner")
HOW_TO_GET = (
    "git clone --branch v0.3.4 https://github.com/kohya-ss/musubi-tuner, "
    "then pass --musubi_tuner FOLDER or set MUSUBI_TUNER_DIR=FOLDER"
)
MISSING = "run `pip install -e .` in its checkout"


@dataclass(frozen=True)
class Tuner:
    """modules: the folder of its package musubi_tuner. root: what is put on the path, None where it is installed."""

    modules: Path
    root: Path | None

    @property
    def package(self) -> HostPackage:
        """For seams; see hosts/seam.py."""
        return HostPackage(HOST, "musubi_tuner", self.root, TESTED, MISSING)

    def version(self) -> str:
        """What its package says; for messages only."""
        project = self._project()
        return f"v{project['version'] if project else version(HOST)}"

    def requirements(self) -> tuple[str, list[str]]:
        """What names the packages that it needs, and they with their versions, as pip writes them."""
        project = self._project()
        if project:
            return "pyproject.toml", [str(line) for line in project["dependencies"]]
        return f"{HOST} {version(HOST)}", [line for line in requires(HOST) or [] if ";" not in line]

    def _project(self) -> dict[str, Any]:
        """Of its checkout's pyproject.toml; nothing where the package is installed elsewhere."""
        file = self.modules.parents[1] / "pyproject.toml"
        return read_toml(file).get("project", {}) if file.is_file() else {}

    def module(self, script: str) -> str:
        """The dotted name of one of its training scripts. Raises SgaError when there is none, or none we train with."""
        refuse(script)
        if not (self.modules / f"{script}.py").is_file():
            raise SgaError(
                f"the musubi-tuner in {self.modules} has no {script}.py; {SCRIPTS[script].name} needs a newer one"
            )
        return f"musubi_tuner.{script}"


def find_tuner(named: str | None = None) -> Tuner:
    """What was named, else MUSUBI_TUNER_DIR, the current folder, the installed package, ~/.cache/sga_kohya.

    Raises SgaError when the first of these that is set is no musubi-tuner, when there is none, or when it is too old.
    """
    for origin, folder in (("--musubi_tuner", named), ("MUSUBI_TUNER_DIR", os.environ.get("MUSUBI_TUNER_DIR"))):
        if folder:
            source = user_path(folder, origin).resolve() / "src"
            if not _holds_package(source):
                raise SgaError(f"{origin} {folder}: this is no checkout of musubi-tuner; get one with: {HOW_TO_GET}")
            return _supported(source / "musubi_tuner", source)
    if _holds_package(Path.cwd() / "src"):
        return _supported(Path.cwd() / "src" / "musubi_tuner", Path.cwd() / "src")
    spec = importlib.util.find_spec("musubi_tuner")
    if spec is not None and spec.submodule_search_locations:
        return _supported(Path(next(iter(spec.submodule_search_locations))), None)
    source = DEFAULT_FOLDER.expanduser() / "src"
    if _holds_package(source):
        return _supported(source / "musubi_tuner", source)
    raise SgaError(f"musubi-tuner was not found (nor in {Path.cwd()} and {DEFAULT_FOLDER}); get it with: {HOW_TO_GET}")


def _holds_package(source: Path) -> bool:
    return (source / "musubi_tuner" / "hv_train_network.py").is_file()


def _supported(modules: Path, root: Path | None) -> Tuner:
    # Older ones keep no epoch that all datasets share, and would repeat some groups and lose others.
    if "shared_epoch" not in (modules / "dataset" / "config_utils.py").read_text(encoding="utf-8"):
        raise SgaError(f"the musubi-tuner in {modules} is older than v0.2.13; tested are {TESTED}: {HOW_TO_GET}")
    return Tuner(modules, root)
