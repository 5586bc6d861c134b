"""A whole comparison by one command: write the arms, train each by its door, sample, measure, judge, report.

What stands on the disk decides what is left to do: an arm is trained when its final model is there, its images are made
when none is missing. The journal adds what no file tells: how long each stage took, and why one failed. A failed arm is
tried again by the next call, and keeps no other from being trained and compared.
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from sga_kohya.config import SgaConfig
from sga_kohya.errors import SgaError
from sga_kohya.evaluate import stages
from sga_kohya.evaluate.overview import Overview
from sga_kohya.evaluate.plan.arms import ARMS, arm_toml
from sga_kohya.evaluate.plan.plan import Dataset, Plan, Training, Variant
from sga_kohya.evaluate.process import Process
from sga_kohya.evaluate.report.progress import write_grid
from sga_kohya.evaluate.sample.generate import check, sampling_of
from sga_kohya.evaluate.sample.images import missing_images
from sga_kohya.evaluate.trainers import Program
from sga_kohya.kit.cli import one_line, shell_word
from sga_kohya.kit.files import only_writer, write_whole
from sga_kohya.kit.journal import Journal, read_rows
from sga_kohya.options import read_options
from sga_kohya.tuples import states

JOURNAL = "study.jsonl"
CACHE = "cache"
_STEPS = re.compile(r"steps:.*?(\d+)/(\d+) \[")
_BAR = re.compile(r"\d+%\|")


@dataclass
class Study:
    """root: the folder of the trainer's scripts.

    trainer, sampler: words in the place of the launcher with its door, and of what runs its other scripts.
    """

    plan: Plan
    root: Path
    trainer: Sequence[str] | None = None
    sampler: Sequence[str] | None = None
    failed: dict[tuple[str, str], str] = field(default_factory=dict)
    """Dataset and variant to what was wrong."""

    def prepare(self, here: bool = True) -> None:
        """Write the arms' TOMLs. Raises one SgaError with everything that files alone show to be wrong.

        here: whether what follows the trainings is done by this environment, and not by that of a queue.
        """
        found = list(dict.fromkeys([*(self._missing() if here else ()), *self._problems()]))
        if found:
            listed = "".join(f"\n  - {problem}" for problem in found)
            raise SgaError(f"nothing was started: {len(found)} problem{'s' * (len(found) > 1)}:{listed}")

    def run(self) -> int:
        """Everything that is left to do. Returns the exit status: 2 where an arm failed."""
        plan = self.plan
        with only_writer(plan.out, stages.ELSEWHERE), closing(Journal(plan.out / JOURNAL)) as journal:
            self.prepare()
            after = ["measure", *["judge"] * bool(plan.judge), "report"]
            rows, _ = read_rows(plan.out / JOURNAL)
            overview = Overview([*(kind for kind, *_ in self.waiting()), *after], rows)
            for kind, dataset, variant in self.waiting():
                self._stage(kind, dataset, variant, overview, journal)
            self._compare(overview)
        for (where, name), reason in self.failed.items():
            print(f"failed: {name} of {where}: {reason}", file=sys.stderr)
        if self.failed:
            print("the same command tries again what failed, and nothing else", file=sys.stderr)
        return 2 if self.failed else 0

    def waiting(self) -> Iterator[tuple[str, Dataset, Variant]]:
        """What is left to train and to sample, in the order in which it is done."""
        plan = self.plan
        begun: set[object] = set()
        for dataset in plan.datasets:
            for variant in plan.variants:
                key = dataset.name, variant.arm
                if variant.arm and key not in begun and not plan.model(*key).is_file():
                    begun.add(key)
                    data = self._data(dataset, variant.arm)
                    if data not in begun and self._caching(dataset, variant.arm):
                        begun.add(data)
                        yield CACHE, dataset, variant
                    yield "train", dataset, variant
                if not variant.images and missing_images(plan, variant, dataset):
                    yield "sample", dataset, variant

    def commands(self) -> list[str]:
        """What would train the arms that are not trained, each a line for a shell or a queue."""
        found: list[Sequence[str]] = []
        for kind, dataset, variant in self.waiting():
            if kind == CACHE:
                found += [program.words for program in self._caching(dataset, variant.arm)]
            elif kind == "train":
                found.append(self.command(dataset.name, variant.arm))
        return [" ".join(map(shell_word, words)) for words in found]

    def _data(self, dataset: Dataset, arm: str) -> Path:
        return dataset.slices / ARMS[arm].data(self.plan.training.trainer)

    def _caching(self, dataset: Dataset, arm: str) -> list[Program]:
        """What must have run before an arm trains; each time, for caches do not tell what they were made of."""
        training = self.plan.training
        own = training.trainer
        found = []
        for script, words in own.caching(training.door, training.settings, self._data(dataset, arm)):
            program = own.program(self.root, script) if self.sampler is None else Program([*self.sampler, script])
            found.append(Program([*program.words, *words], program.environment))
        return found

    def command(self, dataset: str, arm: str) -> list[str]:
        """What trains an arm, going on from its newest state where it has one and its order of data is ours."""
        plan = self.plan
        door = [*plan.training.launch, *plan.training.trainer.door(self.root, plan.training.door)]
        words = [*(self.trainer or door), "--config_file", str(plan.arm_toml(dataset, arm))]
        model = plan.model(dataset, arm)
        state = states.newest_whole(model.with_name(f"{model.stem}-state")) if ARMS[arm].tuples else None
        return words if state is None else [*words, "--resume", str(state)]

    def _missing(self) -> Iterator[str]:
        for module in ("transformers", "matplotlib"):
            yield from _said(partial(stages.need, module))

    def _problems(self) -> Iterator[str]:
        plan = self.plan
        training = plan.training
        yield from _said(partial(training.trainer.check, self.root, training.door))
        for dataset in plan.datasets:
            for arm in training.arms:
                yield from _said(partial(write_arm, plan, dataset, arm))
                if plan.arm_toml(dataset.name, arm).is_file():
                    options = read_options(["--config_file", str(plan.arm_toml(dataset.name, arm))])
                    yield from (f"{arm} of {dataset.name}: {text}" for text in _of_options(training, options))
        yield from self._cannot_sample()

    def _cannot_sample(self) -> Iterator[str]:
        plan, root = self.plan, None if self.sampler else self.root
        for dataset in plan.datasets:
            for variant in (variant for variant in plan.variants if not variant.images):
                yield from _said(partial(check, sampling_of(plan, variant, dataset), dataset, None, root))

    def _stage(self, kind: str, dataset: Dataset, variant: Variant, overview: Overview, journal: Journal) -> None:
        """One training or sampling; where it fails, the journal says so and the next one follows."""
        if (dataset.name, variant.arm) in self.failed:
            return  # it was not trained
        name = variant.name if kind == "sample" else variant.arm
        row = {"stage": kind, "dataset": dataset.name, "variant": name}
        with overview.stage(kind, f"{name} of {dataset.name}"):
            try:
                self._do(kind, dataset, variant, overview.share)
            except (SgaError, OSError) as error:
                lost = self._sharing(dataset, name) if kind == CACHE else [name]
                self.failed |= {(dataset.name, one): one_line(error) for one in lost}
                row["failed"] = str(error)
        journal.append({**row, "seconds": round(overview.seconds, 1)})

    def _do(self, kind: str, dataset: Dataset, variant: Variant, share: Callable[[float], None]) -> None:
        if kind == "train":
            self._train(dataset, variant, share)
        elif kind == CACHE:
            for program in self._caching(dataset, variant.arm):
                status, end = self._run(program, dataset, variant, share)
                if status:
                    raise SgaError(f"its caches were not made, exit status {status}; {end}")
        else:
            one = replace(self.plan, datasets=(dataset,), variants=(variant,))
            stages.sample(one, self.root, command=self.sampler)

    def _sharing(self, dataset: Dataset, arm: str) -> list[str]:
        """The arms that train on the data of this one."""
        data = self._data(dataset, arm)
        return [other for other in self.plan.training.arms if self._data(dataset, other) == data]

    def _train(self, dataset: Dataset, variant: Variant, share: Callable[[float], None]) -> None:
        """Raises SgaError with the end of what it said where no model comes of it."""
        words = self.command(dataset.name, variant.arm)
        if words[:2] == ["accelerate", "launch"]:  # of this Python, whatever the path says
            words[:2] = [sys.executable, "-m", "accelerate.commands.launch"]
        status, end = self._run(Program(words), dataset, variant, share)
        if status or not self.plan.model(dataset.name, variant.arm).is_file():
            raise SgaError(f"its training ended with exit status {status} and no model; {end}")

    def _run(
        self, program: Program, dataset: Dataset, variant: Variant, share: Callable[[float], None]
    ) -> tuple[int, str]:
        """Returns its exit status, and the end of what it said with where all of that is."""
        log = self.plan.out / "logs" / f"{dataset.name}-{variant.arm}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as kept, Process(program.words, program.environment) as process:
            for line in process.lines():
                if found := _STEPS.search(line):
                    share(int(found[1]) / max(int(found[2]), 1))
                elif not _BAR.search(line):
                    kept.write(line)
            status = process.wait()
        return status, f"{log} ends:\n{process.tail()}"

    def _compare(self, overview: Overview) -> None:
        """Measure, judge and report those that are there for every dataset."""
        lost = {variant for _, variant in self.failed}
        kept = tuple(v for v in self.plan.variants if not lost & {v.name, v.arm})
        plan = replace(self.plan, variants=kept)
        if len(plan.variants) < 2:
            raise SgaError(f"{len(plan.variants)} variant is left to compare; {_first(self.failed)}")
        with overview.stage("measure", "all"):
            stages.measure(plan)
        if plan.judge and lost:
            print("the judge is asked once every arm is there, for each question costs and shows them all")
        elif plan.judge:
            with overview.stage("judge", "all"):
                stages.ask_judge(plan)
        with overview.stage("report", "all"):
            pages = [stages.write_report(plan), *self._grids()]
        print(*pages, sep="\n")

    def _grids(self) -> Iterator[Path]:
        """The sample images that the trainings made on their way, if they were asked to: a page for each dataset."""
        plan, prompts = self.plan, Path(str(self.plan.training.settings.get("sample_prompts")))
        for dataset in plan.datasets:
            folders = [plan.model(dataset.name, arm).parent for arm in plan.training.arms]
            runs = [folder for folder in folders if (folder / "sample").is_dir()]
            if runs:
                words = prompts if prompts.suffix == ".txt" and prompts.is_file() else None
                try:
                    yield write_grid(runs, plan.out / "progress" / dataset.name, 256, words)[1]
                except SgaError as error:  # such as a sample that a kill has cut short
                    print(f"warning: no progress of {dataset.name}: {one_line(error)}", file=sys.stderr)


def write_arm(plan: Plan, dataset: Dataset, arm: str) -> None:
    """Write the TOML of an arm. Raises SgaError where it has been trained, or begun, with another."""
    training, path, model = plan.training, plan.arm_toml(dataset.name, arm), plan.model(dataset.name, arm)
    names = {"output_dir": str(model.parent), "output_name": model.stem}
    hours = [budget * (dataset.n1_hours or 0.0) for budget in training.budgets]
    text = arm_toml(training.base, training.text, ARMS[arm], names, dataset.slices, hours)
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    if path.is_file() and model.parent.is_dir() and any(model.parent.glob(f"{model.stem}*")):
        raise SgaError(
            f"{path} would no longer be what {model.parent} was trained with: the base TOML or the slices have "
            "changed since. Remove that folder to train anew, or write another `out` into the plan"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)


def _of_options(training: Training, options: Mapping[str, object]) -> Iterator[str]:
    try:
        yield from training.trainer.problems(training.door, options, SgaConfig.from_options(options))
    except SgaError as error:
        yield str(error)


def _said(question: Callable[[], object]) -> Iterator[str]:
    """What is wrong, as a sentence; nothing where nothing is."""
    try:
        question()
    except (SgaError, OSError) as error:
        yield str(error)


def _first(failed: Mapping[tuple[str, str], str]) -> str:
    (dataset, variant), reason = next(iter(failed.items()))
    return f"the first that failed is {variant} of {dataset}: {reason}"
