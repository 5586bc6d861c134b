"""The command line: python -m sga_kohya.evaluate study|run|metrics|judge|human|report|grid|checkpoints"""

import argparse
import contextlib
import math
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from sga_kohya.errors import SgaError
from sga_kohya.evaluate import stages
from sga_kohya.evaluate.plan.plan import Plan
from sga_kohya.evaluate.plan.plan_file import read_plan
from sga_kohya.evaluate.trainers import TRAINERS, Trainer, drawing_with
from sga_kohya.kit.cli import Parser, run_command
from sga_kohya.kit.files import only_writer


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m sga_kohya.evaluate",
        description="Compare variants as section 4.3-4.5 of the paper does, with an interval on every number.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text)

    def of_plan(name: str, text: str) -> argparse.ArgumentParser:
        added = command(name, text)
        added.add_argument(
            "plan", type=Path, metavar="PLAN", help="TOML; `python -m sga_kohya.presets copy plan DIR` gives one"
        )
        return added

    _add_study(of_plan("study", "all of it: train the arms of [train], sample, measure, judge if asked, report"))
    run = of_plan("run", "make the images that are missing, by sd-scripts")
    _add_checkouts(run)
    run.add_argument("--only", default="", metavar="VARIANT", help="of this variant alone")
    metrics = of_plan("metrics", "CLIP-I, CLIP-T, DINO-I and further columns, and near-copies of references")
    metrics.add_argument("--device", help="such as cuda:1 or cpu; default: a GPU if there is one")
    judge = of_plan("judge", "let a model rank the images, through an OpenAI-compatible endpoint")
    judge.add_argument("--estimate", action="store_true", help="only say what it would cost")
    _add_human(of_plan("human", "serve the page on which people rank the images"))
    of_plan("report", "write report.html, report.md, results.csv and figures")
    _add_checkpoints(command("checkpoints", "pick the saved checkpoints nearest to multiples of N1"))
    _add_grid(command("grid", "lay out the sample images of trainings: prompts down, steps across"))
    return parser


def _add_human(human: argparse.ArgumentParser) -> None:
    human.add_argument(
        "--host", default="127.0.0.1", help="another address lets other machines in (default: %(default)s)"
    )
    human.add_argument("--port", type=int, default=8420, help="0 for any that is free (default: %(default)s)")
    human.add_argument(
        "--name", action="append", default=[], help="a further name browsers may open it by, such as study.example.org"
    )
    human.add_argument("--open", action="store_true", help="open it in the browser")


def _add_checkpoints(checkpoints: argparse.ArgumentParser) -> None:
    checkpoints.add_argument("source", type=Path, metavar="PLAN_OR_FOLDER", help="a plan, or the output_dir of runs")
    checkpoints.add_argument("--n1_hours", type=float, help="of the reference run, with a folder")
    checkpoints.add_argument("--at", default="1.0,1.5", help="multiples of N1 (default: %(default)s)")
    checkpoints.add_argument("--tolerance_minutes", type=float, default=30.0, help="(default: %(default)s)")


def _add_checkouts(parser: argparse.ArgumentParser) -> None:
    for trainer in TRAINERS:
        parser.add_argument(f"--{trainer.option}", help=f"folder of the {trainer.name} checkout")


def _root(trainer: Trainer, args: argparse.Namespace) -> Path:
    return trainer.find(getattr(args, trainer.option))


def _add_study(study: argparse.ArgumentParser) -> None:
    _add_checkouts(study)
    study.add_argument(
        "--print", action="store_true", help="only write the arms' TOMLs and print what trains them, for a queue"
    )


def _add_grid(grid: argparse.ArgumentParser) -> None:
    grid.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="output_dir of a training, or its `sample`")
    grid.add_argument("--out", type=Path, default=Path("grid"), help="folder (default: %(default)s)")
    grid.add_argument("--prompts", type=Path, help="the file of sample prompts, to have its words beside the pictures")
    grid.add_argument("--size", type=int, default=256, help="pixels of a picture's longer side (default: %(default)s)")


def study(args: argparse.Namespace) -> int:
    plan = read_plan(args.plan)
    from sga_kohya.evaluate.study import Study

    work = Study(plan, _root(plan.training.trainer, args))
    if not args.print:
        return work.run()
    with only_writer(plan.out, stages.ELSEWHERE):
        work.prepare(here=False)
    for line in work.commands():
        print(line)
    return 0


def run(args: argparse.Namespace) -> int:
    # Imports wait until the plan was read: some take seconds, and a plan's problems are found without them.
    from sga_kohya.evaluate.sample.images import PUT_THERE, image_files, missing_images

    plan = read_plan(args.plan)
    made = 0
    if any(not variant.images for variant in plan.variants):
        made = stages.sample(plan, _root(drawing_with(plan.sampling.script), args), args.only)
    missing = {v.name: [c for d in plan.datasets for c in missing_images(plan, v, d)] for v in plan.variants}
    total = sum(len(d.prompts) for d in plan.datasets) * len(plan.seeds)
    for variant in plan.variants:
        state = f"{len(missing[variant.name])} of {total} missing" if missing[variant.name] else f"{total} images"
        print(f"  {variant.name:24} {state}{' (read from a folder)' if variant.images else ''}")
        if missing[variant.name] and variant.images:
            first = missing[variant.name][0]
            path = image_files(plan, variant, plan.dataset(first.dataset))[first]
            print(f"  {'':24} the first is {path}: {PUT_THERE}")
    print(f"{made} images made")
    return 2 if any(missing[v.name] for v in plan.variants if args.only in ("", v.name)) else 0


def metrics(args: argparse.Namespace) -> int:
    stages.measure(read_plan(args.plan), args.device or "")
    return 0


def judge(args: argparse.Namespace) -> int:
    stages.ask_judge(read_plan(args.plan), args.estimate)
    return 0


def human(args: argparse.Namespace) -> int:
    plan = read_plan(args.plan)
    from sga_kohya.evaluate.rate.server import Server
    from sga_kohya.evaluate.rate.study import log_file
    from sga_kohya.evaluate.sample.images import all_images
    from sga_kohya.kit.one_page import LOOPBACK

    files = all_images(plan)
    with (
        only_writer(log_file(plan).parent, stages.ELSEWHERE),
        Server(plan, files, args.host, args.port, args.name) as server,
    ):
        if args.host not in LOOPBACK:
            print(f"warning: --host {args.host}: any machine that reaches it can take part, and nothing is encrypted")
        log = server.study.log
        if log.torn:
            print(f"warning: {log.torn} unfinished line{'s' * (log.torn > 1)} in {log.path} skipped")
        print(f"ranking page: {server.url}\nanswers: {log.path}\nCtrl-C ends it; nothing is lost", flush=True)
        if args.open:
            webbrowser.open(server.url)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    print()
    return 0


def report(args: argparse.Namespace) -> int:
    plan = read_plan(args.plan)
    with only_writer(plan.out, stages.ELSEWHERE):
        print(stages.write_report(plan))
    return 0


def grid(args: argparse.Namespace) -> int:
    from sga_kohya.evaluate.report.progress import write_grid

    print(*write_grid(args.runs, args.out, args.size, args.prompts), sep="\n")
    return 0


def checkpoints(args: argparse.Namespace) -> int:
    from sga_kohya.evaluate.sample.checkpoints import all_runs, pick

    if args.source.is_file():
        return _checkpoints_of(read_plan(args.source))
    if args.n1_hours is None or not 0 < args.n1_hours < math.inf:
        raise SgaError("--n1_hours: write the hours of the reference run, such as 14, or name a plan")
    try:
        multiples = [float(number) for number in args.at.split(",")]
    except ValueError:
        multiples = [math.nan]
    if not all(0 <= multiple < math.inf for multiple in multiples):
        raise SgaError(f"--at {args.at}: write numbers with commas, such as 1.0,1.5")
    if not 0 <= args.tolerance_minutes < math.inf:
        raise SgaError(f"--tolerance_minutes {args.tolerance_minutes}: write a number of minutes, such as 30")
    failed = 0
    for name, run in all_runs(args.source).items():
        for multiple in multiples:
            try:
                found = pick(run, multiple * args.n1_hours, args.tolerance_minutes)
                print(f"{name}  {multiple:g} N1  {found.file}  {found.hours:.2f} h ({found.source})")
            except SgaError as error:
                failed += 1
                print(f"{name}  {multiple:g} N1  none: {error}", file=sys.stderr)
    return 2 if failed else 0


def _checkpoints_of(plan: Plan) -> int:
    from sga_kohya.evaluate.sample.images import weights_of

    failed = 0
    for variant in (variant for variant in plan.variants if variant.run):
        for dataset in plan.datasets:
            where = f"{dataset.name}  {variant.name}  {variant.budget:g} N1 = {variant.hours(dataset):g} h"
            try:
                print(f"{where}  {weights_of(plan, variant, dataset)}")
            except SgaError as error:
                failed += 1
                print(f"{where}  none: {error}", file=sys.stderr)
    return 2 if failed else 0


COMMANDS = (study, run, metrics, judge, human, report, grid, checkpoints)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 2 for what the user can correct, 130 after Ctrl-C."""

    def body() -> int:
        args = build_parser().parse_args(argv)
        return {command.__name__: command for command in COMMANDS}[args.command](args)

    again = "run the same command again, it goes on where it stopped"
    return run_command("sga_kohya.evaluate", body, again, extra="evaluate")


if __name__ == "__main__":
    sys.exit(main())
