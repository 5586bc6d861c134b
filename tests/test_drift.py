"""Version drift: wherever sd-scripts moves or changes a function that a seam relies on, there is one clear error."""

import sys
from importlib import import_module
from pathlib import Path

import pytest

from sga_kohya import SgaConfig, SgaError
from sga_kohya.hosts.sd_scripts import install as installer
from sga_kohya.hosts.sd_scripts import noise
from sga_kohya.hosts.sd_scripts.checkout import TESTED, Checkout
from sga_kohya.hosts.sd_scripts.families import SCRIPTS
from sga_kohya.hosts.seam import Seam, _walk

from . import stub_host


def seams(config: SgaConfig = SgaConfig(flow_snr_weight=True), checkout: Checkout = Checkout(Path())) -> list[Seam]:  # noqa: B008
    """Every seam of a run that asks for all there is."""
    found: list[Seam] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(installer, "install", lambda seams, *_: found.extend(seams))
        installer.install_for(config, checkout)
    return found


@pytest.fixture
def root(tmp_path):
    with stub_host.importable():
        yield stub_host.write(tmp_path)


def held(root: Path) -> dict[tuple[str, str], object]:
    modules = [name for name in sys.modules if name.split(".")[0] == "library"]
    return {(module, name): value for module in modules for name, value in vars(sys.modules[module]).items()}


# Without parameters are functions that other packages wrap: see saved.py.
CHANGES = [(seam, "gone") for seam in seams()] + [(seam, "other parameters") for seam in seams() if seam.parameters]


@pytest.mark.parametrize(("seam", "change"), CHANGES, ids=lambda part: getattr(part, "name", part))
def test_a_changed_function_is_named_and_nothing_is_patched(root, monkeypatch, seam, change):
    monkeypatch.syspath_prepend(str(root))
    holder, name = _walk(seam.target)
    if change == "gone":
        monkeypatch.delattr(holder, name)
    else:
        stranger = lambda somebody, elses: None  # noqa: E731
        stranger.__module__ = getattr(holder, name).__module__
        monkeypatch.setattr(holder, name, stranger)
    before = held(root)
    with pytest.raises(SgaError) as error:
        installer.install_for(SgaConfig(flow_snr_weight=True), Checkout(root))
    message = str(error.value)
    assert f"{seam.target} is expected with parameters ({', '.join(seam.parameters)})" in message
    assert "it is missing" in message if change == "gone" else "its parameters are (somebody, elses)" in message
    assert message.endswith(f"Nothing was changed. Tested versions are {TESTED}") and "\n" not in message
    after = held(root)
    assert [key for key, value in before.items() if after[key] is not value] == []


@pytest.mark.parametrize("config", [SgaConfig(flow_snr_weight=True), SgaConfig(path="spherical-slerp")])
def test_no_host_function_has_two_seams(root, config):
    """The order of two wrappers would stand nowhere; parts hear in one list's order instead."""
    found = seams(config, Checkout(root))
    targets = [(seam.target, seam.inside) for seam in found]
    assert len(set(targets)) == len(targets)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_not_asked_for_another_family_s_functions(root, monkeypatch, script):
    own = {seam.target for seam in noise.seams_of(script)}
    assert len(own) == 1
    monkeypatch.syspath_prepend(str(root))
    for seam in noise.SEAMS:
        if seam.target not in own:
            module, _, name = seam.target.rpartition(".")
            monkeypatch.delattr(import_module(module), name)
    installer.install_for(SgaConfig(), Checkout(root), script).uninstall()
