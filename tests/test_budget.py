"""Time budgets: the step nearest to a time is the one that saves or stops."""

from argparse import Namespace

import pytest

from sga_kohya.training.budget import Budget
from sga_kohya.training.loop import HostLoop
from sga_kohya.tuples.cursor import Cursor

HOUR = 3600.0


def run(budget: Budget, step_hours: list[float], every: int | None = None, cursor: Cursor | None = None):
    """Returns {step: hours saved for} and the step at which the run stopped, or None."""
    cursor = cursor or Cursor()
    loop = HostLoop(Namespace(save_every_n_steps=every, max_train_steps=10**6, save_every_n_epochs=1))
    saved = {}
    budget.begin(cursor)
    for hours in step_hours:
        cursor.step += 1
        cursor.seconds += hours * HOUR
        stops = budget.after_step(cursor, loop)
        assert stops == (loop.args.save_every_n_epochs is None), "an epoch that is cut off is not saved as one"
        if loop.args.save_every_n_steps == 1 and every != 1:
            saved[cursor.step] = budget.saving[1]
        loop.restore()
        if stops:
            assert loop.args.max_train_steps == cursor.step
            return saved, cursor.step
    return saved, None


@pytest.mark.parametrize(("at", "step"), [(2.9, 3), (3.1, 3), (3.45, 3), (3.55, 4), (0.01, 1)])
def test_the_nearest_step_saves(at, step):
    assert run(Budget([at], None), [1.0] * 10) == ({step: at}, None)


def test_two_times_are_two_checkpoints_and_stopping_is_a_time_too():
    assert run(Budget([14, 21], 25), [0.7] * 100) == ({20: 14, 30: 21}, 36)


def test_a_step_of_the_hosts_own_keeps_its_name():
    assert run(Budget([4], None), [1.0] * 10, every=4) == ({5: 4}, None)


def test_a_time_at_an_epoch_s_last_step_waits_for_the_next_epoch():
    budget, cursor = Budget([3.9], None), Cursor()
    first, _ = run(budget, [1.0] * 4, every=4, cursor=cursor)
    second, _ = run(budget, [1.0] * 4, every=4, cursor=cursor)
    assert (first, second) == ({}, {5: 3.9})


def test_times_that_a_resumed_run_has_behind_it_are_not_saved_again():
    cursor = Cursor(step=20, seconds=13.9 * HOUR, saved_hours=[14.0])
    assert run(Budget([7, 14, 21], None), [0.7] * 20, cursor=cursor) == ({30: 21}, None)


def test_without_budgets_there_is_nothing_to_agree_on():
    assert not Budget([], None)
    assert Budget([], 3.0)
