"""How long a run still takes: counted by pictures, without its first steps."""

import pytest

from sga_kohya.training.pace import LEFT_OUT, Pace


def test_time_left_goes_by_pictures_and_leaves_the_first_steps_out():
    pace, seconds = Pace(), 0.0
    for pictures in (6, 6):  # loading and compiling
        pace.count(pictures)
        seconds += 100.0
        pace.after_step(seconds)
        assert pace.left(10) is None
    assert pace.steps == LEFT_OUT
    for pictures in (2, 4, 6):  # two seconds each
        for _ in range(2):
            pace.count(pictures // 2)
        seconds += 2.0 * pictures
        pace.after_step(seconds)
        assert pace.left(100) == pytest.approx(200)
    assert pace.left(0) == 0


def test_steps_without_pictures_say_nothing():
    pace = Pace()
    for _ in range(5):
        pace.after_step(1.0)
    assert pace.left(10) is None
