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
    assert "1.000 [?] of stock" in lines[1] and lines[-1].endswith("no interval of one")
