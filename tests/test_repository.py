"""What the repository says of itself to those who would work on it: its files are there, its versions agree."""

import re
from pathlib import Path

import pytest
import yaml

from sga_kohya import __version__

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"


def test_the_contributing_page_names_nothing_that_is_not_there():
    text = (GITHUB / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = [word for word in re.findall(r"`([\w./]+)`", text) if "/" in word and "NAME" not in word]
    assert len(paths) > 20
    assert not [path for path in paths if not (ROOT / path).exists()]
    for row in re.findall(r"`([A-Za-z_]+)` (?:of|in) `([\w./]+\.py)`", text):
        assert re.search(rf"\b{row[0]}\b", (ROOT / row[1]).read_text(encoding="utf-8")), row


def test_the_changes_begin_with_this_version():
    text = (GITHUB / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## ([\d.]+)", text, re.MULTILINE)[0] == __version__


def test_the_workflow_does_what_ci_does():
    steps = yaml.safe_load((GITHUB / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]["test"]["steps"]
    assert steps[-1] == {"run": ".ci/run"}
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    hooks = yaml.safe_load((GITHUB / "pre-commit.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    assert all(hook["entry"] in run and hook["language"] == "system" for hook in hooks)


@pytest.mark.parametrize("form", sorted(GITHUB.glob("ISSUE_TEMPLATE/[!c]*.yml")), ids=lambda path: path.stem)
def test_a_form_for_issues_can_be_filled_in(form):
    content = yaml.safe_load(form.read_text(encoding="utf-8"))
    kinds = {"textarea", "input", "checkboxes", "dropdown", "markdown"}
    assert content["name"] and content["description"] and {part["type"] for part in content["body"]} <= kinds
    assert all(part["attributes"]["label"] for part in content["body"])
    assert len({part["id"] for part in content["body"]}) == len(content["body"])
