"""The chart of --sga_show_timesteps."""

import pytest
from PIL import Image, ImageColor

from sga_kohya.kit.line_chart import _COLOURS, Line, _ticks, write_chart


@pytest.mark.parametrize(
    ("largest", "ticks"),
    [(1.0, [0, 0.25, 0.5, 0.75, 1.0]), (3.92, [0, 1, 2, 3, 4]), (1.9, [0, 0.5, 1, 1.5, 2]), (0.0, [0.0])],
)
def test_ticks_are_round_and_cover_the_data(largest, ticks):
    assert _ticks(largest) == pytest.approx(ticks)


def test_each_line_has_its_colour_and_nothing_unfinished_is_left(tmp_path):
    lines = [
        Line("one", [0.0, 1.0, 2.0], 0),
        Line("two", [2.0, 1.0, 0.0], 1),
        Line("pale", [1.0, 1.0, 1.0], 1, shade=0.5),
    ]
    write_chart(tmp_path / "chart.png", "title", "axis", lines)
    assert [path.name for path in tmp_path.iterdir()] == ["chart.png"]
    with Image.open(tmp_path / "chart.png") as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}
    assert {ImageColor.getrgb(_COLOURS[0]), ImageColor.getrgb(_COLOURS[1])} <= colours
    assert tuple(round(v + (255 - v) * 0.5) for v in ImageColor.getrgb(_COLOURS[1])) in colours
