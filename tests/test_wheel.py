"""A wheel of the package has all that a clone has, and its page on an index reads like the repository's."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# In an empty place with the wheel alone on the path, as after `pip install`.
USE = """
import sys
sys.path.insert(0, sys.argv[1])
from sga_kohya import patch, presets
from sga_kohya.kit.shipped import shipped
assert all(str(shipped(name)).startswith(sys.argv[1]) for name in ("presets", "patches", "examples"))
assert patch.added().startswith(patch.MARK)
for name in ("plan", "study", "flux_dora", "flux2_lora", "dataset_flux", "flux_dora.json"):
    print(presets.copy(name, __import__("pathlib").Path(sys.argv[2])))
from sga_kohya.hsd.settings.layers import preset_names
assert "flux-1280" in preset_names()
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    for name in ("hatchling", "hatch_fancy_pypi_readme"):
        pytest.importorskip(name, reason=f"no {name} here to build a wheel with")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_it_has_every_file_of_the_package_and_what_lies_beside_it(wheel, tmp_path):
    names = set(zipfile.ZipFile(wheel).namelist())
    listed = subprocess.run(["git", "ls-files", "sga_kohya"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert listed and set(listed) <= names
    for folder in ("presets", "patches", "examples/evaluate"):
        files = (path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*") if path.is_file())
        inside = {f"sga_kohya/_{file}" for file in files}
        assert inside and inside <= names
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "site")
    command = [sys.executable, "-I", "-c", USE, str(tmp_path / "site"), str(tmp_path / "copies")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "copies").iterdir()} >= {
        "plan.toml",
        "study.toml",
        "flux_dora.toml",
        "flux_dora.json",
    }


def test_its_metadata_say_what_it_is_and_its_page_has_no_link_that_works_in_a_clone_alone(wheel):
    with zipfile.ZipFile(wheel) as file:
        metadata = file.read(next(name for name in file.namelist() if name.endswith("METADATA"))).decode()
    head, _, page = metadata.partition("\n\n")
    assert "Classifier: Programming Language :: Python :: 3.10" in head and "Project-URL: Paper" in head
    targets = re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", page)
    relative = [link for link in map("".join, targets) if not link.startswith(("https://", "#"))]
    assert not relative and "# sga_kohya" in page
    installs = re.findall(r"pip install .*sga.*", page)
    assert (
        'pip install "sga-kohya[demo]" && python -m sga_kohya.demo' in installs and "pip install sga-kohya" in installs
    )
    assert all(re.search(r'install "?sga-kohya(\[\w+\]"?|$)', line) for line in installs), "nothing of a clone's"
    assert "<img" not in page and not re.search(r":\n\n(?![-|`<\n]|```)", page), (
        "nothing is announced that is not there"
    )
