"""What each command does with a plan, and says of it; `study` does them all."""

import contextlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from sga_kohya.errors import SgaError
from sga_kohya.evaluate.plan.plan import Plan
from sga_kohya.kit.files import only_writer
from sga_kohya.kit.text import safe

ELSEWHERE = "write another `out` into the plan"


def need(*modules: str) -> None:
    """Raises SgaError where one of them is not installed."""
    if missing := [name for name in modules if find_spec(name) is None]:
        raise SgaError(f"{' and '.join(missing)} is not installed: pip install 'sga-kohya[evaluate]'")


def sample(plan: Plan, checkout: Path, only: str = "", command: Sequence[str] | None = None) -> int:
    """Make what is missing of the images. Returns how many were made. only: the name of one variant."""
    from sga_kohya.evaluate.sample.generate import clear_leftovers, generate
    from sga_kohya.evaluate.sample.images import folder_of

    with contextlib.ExitStack() as held:
        # Each variant by itself: `--only` may sample another one on another GPU.
        sampled = [v for v in plan.variants if not v.images and only in ("", v.name)]
        for folder in (folder_of(plan, variant, dataset) for variant in sampled for dataset in plan.datasets):
            held.enter_context(only_writer(folder, "sample another variant with --only"))
            clear_leftovers(folder)
        return generate(plan, checkout, command, only)


def measure(plan: Plan, device: str = "") -> None:
    """Compute the metrics and print them. device: "" for a GPU if there is one."""
    need("transformers")
    import torch

    from sga_kohya.evaluate.measure.metrics import measure as measure_all
    from sga_kohya.evaluate.measure.metrics import metric_intervals

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with only_writer(plan.out / "embeddings", ELSEWHERE):
        scores = measure_all(plan, device)
    columns = {column: metric_intervals(plan, scores.values[column]) for column in scores.columns}
    print(f"{'':24}  {''.join(f'{column:24}' for column in columns)}")
    for place, label in enumerate(plan.labels.values()):
        print(f"{label:24}  {''.join(f'{row[place]!s:24}' for row in columns.values())}")
    for warning in scores.warnings:
        print(f"warning: {safe(str(warning))}")
    for cell, reference, bits in scores.near_copies:
        where = f"{cell.dataset}/{cell.variant}/{cell.file}"
        print(f"warning: {safe(where)} is nearly a copy of {safe(str(reference))} ({bits} of 64 bits differ)")


def ask_judge(plan: Plan, only_estimate: bool = False) -> None:
    """Let the model rank the images, and print what it came to."""
    from sga_kohya.evaluate.rate.judge import ballots_file
    from sga_kohya.evaluate.rate.judge import judge as ask_all
    from sga_kohya.evaluate.sample.images import all_images

    files = all_images(plan)
    with only_writer(ballots_file(plan).parent, ELSEWHERE):
        verdict = ask_all(plan, files, only_estimate=only_estimate)
    if verdict is not None:
        print(
            f"{len(verdict.ballots)} rankings, {verdict.failed} questions without a valid answer; {verdict.requests} "
            f"requests, ${verdict.dollars:.2f} in all"
        )
        if verdict.lost:
            print(f"warning: {verdict.lost} replies did not arrive whole: they may be charged, and count as estimated")


def write_report(plan: Plan) -> Path:
    """Returns the page's path."""
    need("matplotlib")
    from sga_kohya.evaluate.report.report import write_report as write_all

    return write_all(plan)
