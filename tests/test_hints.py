"""A word that is nearly a command is answered with the command, unless a folder or file has that name."""

import pytest

from sga_kohya.doctor.__main__ import main as doctor
from sga_kohya.evaluate.__main__ import main as evaluate
from sga_kohya.hsd.__main__ import main as hsd
from sga_kohya.presets import main as presets
from sga_kohya.spherical.__main__ import main as spherical


@pytest.mark.parametrize("words", [["reviw"], ["reviw", "OUT"], ["Review", "OUT", "--port", "0"]])
def test_a_misspelt_review_is_answered_with_it(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert hsd(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"sga_kohya.hsd: error: there is no folder {words[0]}: did you mean review?")
    assert error.count("\n") == 1


def test_photos_in_a_folder_of_such_a_name_are_photos(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reviw").mkdir()
    assert hsd(["reviw", "OUT"]) == 2
    assert "did you mean" not in capsys.readouterr().err


def test_other_words_are_no_misspelt_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert hsd(["photos", "OUT"]) == 2
    assert "did you mean" not in capsys.readouterr().err


def test_a_misspelt_host_of_the_doctor_is_answered_with_it_unless_settings_have_that_name(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert doctor(["musbi", "flux_2_train_network"]) == 2
    assert capsys.readouterr().err == "sga_kohya.doctor: error: there is no file musbi: did you mean musubi?\n"
    (tmp_path / "musbi.toml").write_text("[")
    assert doctor(["musbi"]) == 1
    assert "did you mean" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("main", "words", "meant"),
    [
        (presets, ["lst"], "list"),
        (spherical, ["prob", "VAE"], "probe"),
        (evaluate, ["reprot", "PLAN"], "report"),
    ],
)
def test_a_misspelt_command_or_choice_is_answered_with_the_one_that_was_meant(main, words, meant, capsys):
    try:
        status = main(words)
    except SystemExit as end:
        status = end.code
    assert status == 2
    error = capsys.readouterr().err
    assert "invalid choice" in error and f"; did you mean {meant}?" in error
