"""sga_kohya.hsd and sga_kohya.partition: what --help says."""

import argparse

import pytest

from sga_kohya.hsd import HsdConfig
from sga_kohya.hsd import arguments as hsd
from sga_kohya.hsd.captioners.captioner import CAPTIONERS
from sga_kohya.hsd.detect import DETECTORS
from sga_kohya.hsd.photos.images import FORMATS
from sga_kohya.hsd.settings.config import MODES
from sga_kohya.hsd.settings.layers import preset_names
from sga_kohya.partition import __main__ as partition
from sga_kohya.partition.output import GROUPINGS

PARSERS = {"hsd": hsd.build_parser, "partition": partition.build_parser}


def told(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Each option with all that the help says of it, in one line."""
    formatter = parser._get_formatter()
    return {
        action.option_strings[0]: " ".join(formatter._format_action(action).split())
        for action in parser._actions
        if action.option_strings and action.dest != "help"
    }


@pytest.mark.parametrize("name", PARSERS)
def test_help_tells_the_default_of_every_option_that_may_be_left_out(name):
    parser = PARSERS[name]()
    required = {action.option_strings[0] for action in parser._actions if action.required and action.option_strings}
    for option, text in told(parser).items():
        assert ("(default: " in text) != (option in required), text
        assert "None" not in text and "[]" not in text and "%" not in text, text
    assert len(parser.format_help().splitlines()) > len(told(parser))


@pytest.mark.parametrize(
    ("name", "option", "choices"),
    [
        ("hsd", "--mode", MODES),
        ("hsd", "--format", FORMATS),
        ("hsd", "--detector", DETECTORS),
        ("hsd", "--captioner", CAPTIONERS),
        ("hsd", "--preset", preset_names()),
        ("partition", "--by", partition.CRITERIA),
        ("partition", "--group_by", GROUPINGS),
    ],
)
def test_help_shows_what_can_be_chosen(name, option, choices):
    shown = told(PARSERS[name]())[option].partition("{")[2].partition("}")[0].split(",")
    assert set(shown) == set(choices) and len(shown) > 1


def test_the_defaults_in_the_help_are_those_of_a_run():
    options, defaults = told(hsd.build_parser()), HsdConfig()
    level, finest = defaults.finer
    for name in ("mode", "detector", "near_duplicates", "min_size", "format", "batch_size"):
        assert options[f"--{name}"].endswith(f"(default: {getattr(defaults, name)})")
    for name in ("resolution", "max_slices", "tau_down", "margin", "repeats"):
        assert options[f"--{name}"].endswith(f"(default: {getattr(level, name):g})")
    for name in ("tau_up", "min_detail"):
        assert options[f"--{name}"].endswith(f"(default: {getattr(level, name):g}, micro {getattr(finest, name):g})")
    assert options["--iou"].endswith("(default: 0.7 for each pair of finer levels)")
    assert set(defaults.iou_thresholds.values()) == {0.7}
    arguments = hsd.build_parser().parse_args(["photos", "out"])
    assert hsd.config_from(arguments) == hsd.load_config()
