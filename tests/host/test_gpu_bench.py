"""tests/bench/gpu.py on a processor: whoever has a card starts it once, so that it must not fail for other reasons."""

from tests.bench.gpu import ARMS, SIZES, measure, report


def test_the_benchmark_for_cards_runs_every_arm_on_the_real_script_and_prints_a_table(checkout):
    [batch] = SIZES["cpu"].batches
    said = measure("cpu", batch, steps=2, rounds=1, seconds=240)
    assert [fact["arm"] for fact in said[1:]] == list(ARMS)
    assert {fact["passes"] for fact in said[1:]} == {6}, "arms make equal passes"
    assert all(fact["seconds"] > 0 and fact["estimate"] > 0 for fact in said[1:])
    lines = list(report("cpu", batch, said))
    assert "1 of 19 double and 2 of 38 single blocks" in lines[0]
    assert [line.split()[0] for line in lines[1:-1]] == list(ARMS)
    assert "1.000 [?] of stock" in lines[1] and lines[-1] == "  1 round, so no interval, of 6 passes"


def facts(arm, number, seconds, peak):
    return {"arm": arm, "round": number, "seconds": seconds, "peak": peak, "passes": 9, "estimate": 11.0, "task": []}


def test_the_table_compares_within_rounds_and_leaves_out_one_that_was_cut():
    whole = [
        facts(arm, number, (1 + number) * slower, 10.0 * (1 + (arm == "probe")))
        for number in range(2)
        for arm, slower in zip(ARMS, (1.0, 1.0, 0.5, 2.0), strict=True)
    ]
    title, *rows, end = report("sdxl", 4, [{"shapes": "all of it"}, *whole, facts("stock", 2, 100.0, 10.0)])
    assert title == "sdxl, batch 4: all of it" and end == "  2 rounds of 9 passes"
    assert "0.500 [0.500, 0.500] of stock; 10.00 GB, 1.000 of stock; estimated 11.00, +10%" in rows[2]
    assert "2.000 [2.000, 2.000] of stock; 20.00 GB, 2.000 of stock; estimated 11.00, -45%" in rows[3]


def test_the_table_says_what_found_no_room():
    assert "not begun in its time" in next(iter(report("flux", 8, [])))
    [_, said] = report("flux", 8, [{"shapes": "some"}, facts("stock", 0, 1.0, 1.0)])
    assert "1 of 4 arms in its time; give it more --minutes" in said
