"""tests/bench/gpu.py on a processor: whoever has a card starts it once, so that it must not fail for other reasons."""

from tests.bench.gpu import ARMS, SIZES, measure, report


def test_the_benchmark_for_cards_runs_every_arm_on_the_real_script_and_prints_a_table(checkout):
    arms = list(ARMS)
    said = measure("cpu", SIZES["cpu"].batches, arms, steps=2, rounds=1, seconds=240)
    assert [fact["arm"] for fact in said] == arms
    assert {fact["passes"] for fact in said} == {6}, "arms make equal passes"
    assert all(fact["seconds"] > 0 and fact["estimate"] > 0 for fact in said)
    lines = list(report("cpu", 1, arms, said))
    assert "1 of 19 double and 2 of 38 single blocks" in lines[0]
    assert [line.split()[0] for line in lines[1:-1]] == arms
    assert "1.000 [?] of stock" in lines[1] and lines[-1] == "  1 round, so no interval, of 6 passes"


def facts(arm, number, seconds, peak):
    figures = {"seconds": seconds, "peak": peak, "passes": 9, "estimate": 11.0, "task": []}
    return {"batch": 4, "arm": arm, "round": number, "shapes": "all of it", **figures}


def test_the_table_compares_within_rounds_and_leaves_out_one_that_was_cut():
    whole = [
        facts(arm, number, (1 + number) * slower, 10.0 * (1 + (arm == "probe")))
        for number in range(2)
        for arm, slower in zip(ARMS, (1.0, 1.0, 0.5, 2.0), strict=True)
    ]
    title, *rows, end = report("sdxl", 4, list(ARMS), [*whole, facts("stock", 2, 100.0, 10.0)])
    assert title == "sdxl, batch 4: all of it" and end == "  2 rounds of 9 passes"
    assert "0.500 [0.500, 0.500] of stock; 10.00 GB, 1.000 of stock; estimated 11.00, +10%" in rows[2]
    assert "2.000 [2.000, 2.000] of stock; 20.00 GB, 2.000 of stock; estimated 11.00, -45%" in rows[3]


def test_the_table_says_what_found_no_room():
    assert "not begun in its time" in next(iter(report("flux", 8, list(ARMS), [])))
    stock = facts("stock", 0, 1.0, 1.0)
    [_, full, said] = report("flux", 8, list(ARMS), [stock, {"batch": 8, "full": "off"}])
    assert full == "  no room for off" and "1 of 4 arms in its time; give it more --minutes" in said


def test_arms_and_batches_can_be_chosen_so_that_a_short_loan_of_a_card_suffices():
    rows = list(report("flux", 4, ["stock", "tuples"], [facts("stock", 0, 2.0, 8.0), facts("tuples", 0, 1.0, 8.0)]))
    assert [row.split()[0] for row in rows[1:-1]] == ["stock", "tuples"] and "0.500" in rows[2]
