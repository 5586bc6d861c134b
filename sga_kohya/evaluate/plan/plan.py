"""A plan: variants, datasets with their prompts and references, seeds, and how they are sampled and judged.

`read_plan` of plan_file.py makes it. Paths are relative to the plan's own folder; `{dataset}` in one stands for the
dataset's name.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sga_kohya.errors import SgaError
from sga_kohya.evaluate.plan.arms import ARMS
from sga_kohya.evaluate.trainers import SD_SCRIPTS, Trainer
from sga_kohya.hosts.sampling import Sampling
from sga_kohya.kit.pictures import is_picture

ROLES = ("baseline", "sga", *ARMS)


@dataclass(frozen=True)
class Cell:
    """One image of one variant: prompt counts from 0."""

    dataset: str
    variant: str
    prompt: int
    seed: int

    @property
    def file(self) -> str:
        return f"p{self.prompt + 1:02d}_s{self.seed}.png"


@dataclass(frozen=True)
class Dataset:
    """A domain: its prompts, its reference images, and N1, the reference GPU time in hours where it is known.

    slices: what H-SD has made of its photos, for a plan with [train].
    """

    name: str
    prompts: tuple[str, ...]
    references: tuple[Path, ...]
    n1_hours: float | None = None
    slices: Path = Path()


@dataclass(frozen=True)
class Training:
    """What makes a plan's variants: one training for each arm and dataset, each the base TOML with little changed.

    base, text, settings: the TOML, as it is written and as it is read. door: such as flux_train_network. arms: names of
    ARMS. launch: the words in front of the door's. budgets: multiples of N1 at which all are compared; where there are
    none, each is compared at its end. trainer: whose door that is.
    """

    base: Path
    text: str
    settings: Mapping[str, Any]
    door: str
    arms: tuple[str, ...]
    launch: tuple[str, ...]
    budgets: tuple[float, ...] = ()
    trainer: Trainer = SD_SCRIPTS


@dataclass(frozen=True)
class Variant:
    """What is compared. Each of the templates is a path with {dataset}, or a table from dataset to path.

    images: a folder or a path with {prompt} and {seed}, for images that are there already. weights: a file to sample
    with. run: the output_dir of a training, from which the checkpoint nearest to budget * N1 is taken. With none of
    them the variant is the base model itself. role and budget (0: at its end, whenever that was) say which numbers of
    the paper it stands beside. arm: of [train], where one makes it.
    """

    name: str
    label: str
    role: str = ""
    budget: float = 1.0
    images: str | Mapping[str, str] = ""
    weights: str | Mapping[str, str] = ""
    run: str | Mapping[str, str] = ""
    output_name: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    arm: str = ""

    def path(self, template: str, dataset: str) -> str:
        """The template `images`, `weights` or `run` for one dataset; empty where there is none."""
        value = getattr(self, template)
        return (value if isinstance(value, str) else value.get(dataset, "")).replace("{dataset}", dataset)

    def hours(self, dataset: Dataset) -> float:
        """What the budget is on a dataset. Raises SgaError where its N1 is not known; read_plan refuses such runs."""
        if dataset.n1_hours is None:
            raise SgaError(f"n1_hours of dataset {dataset.name} is missing; variant {self.name} needs it for `run`")
        return self.budget * dataset.n1_hours


@dataclass(frozen=True)
class Metrics:
    """Backbones by their name on the Hugging Face hub, or as folders."""

    clip: str = "openai/clip-vit-base-patch32"
    dino: str = "facebook/dino-vits16"
    further: tuple[str, ...] = ()
    near_copy_bits: int = 8
    batch_size: int = 16


@dataclass(frozen=True)
class Judge:
    """An OpenAI-compatible endpoint. Prices in dollars per million tokens, budget in dollars, size in pixels."""

    url: str = ""
    model: str = ""
    api_key_env: str = "OPENAI_API_KEY"
    price_input: float = 0.0
    price_output: float = 0.0
    budget: float = 0.0
    references: int = 4
    size: int = 512
    repeats: int = 8
    reorders: int = 8
    controls: int = 4
    attempts: int = 3
    parallel: int = 4
    timeout: float = 120.0
    json_mode: bool = True


@dataclass(frozen=True)
class Human:
    """The ranking page. trials: for every rater, 0 for one seed of each prompt. size: pixels of the longer side."""

    title: str = "Which picture is best?"
    consent: str = ""
    question: str = "Rank the pictures: which one fits the references best?"
    trials: int = 0
    attention: int = 2
    repeats: int = 3
    references: int = 4
    size: int = 1024


@dataclass(frozen=True)
class Plan:
    title: str
    out: Path
    seeds: tuple[int, ...]
    datasets: tuple[Dataset, ...]
    variants: tuple[Variant, ...]
    folder: Path = Path()
    seed: int = 0
    bootstrap: int = 2000
    confidence: float = 0.95
    tolerance_minutes: float = 30.0
    paper: str = ""
    sampling: Sampling = Sampling()
    metrics: Metrics = Metrics()
    judge: Judge | None = None
    human: Human = Human()
    train: Training | None = None

    @cached_property
    def variant_names(self) -> tuple[str, ...]:
        return tuple(variant.name for variant in self.variants)

    @cached_property
    def labels(self) -> dict[str, str]:
        return {variant.name: variant.label for variant in self.variants}

    @property
    def judge_asked(self) -> Judge:
        """[judge], for whoever asks it. Raises SgaError where the plan has none."""
        if self.judge is None:
            raise SgaError("the plan has no [judge]: write one with url, model, price_input, price_output and budget")
        return self.judge

    @property
    def training(self) -> Training:
        """[train], for whoever trains. Raises SgaError where the plan has none."""
        if self.train is None:
            raise SgaError("the plan has no [train]: write one with base, and `slices` in each dataset")
        return self.train

    def arm_toml(self, dataset: str, arm: str) -> Path:
        """What an arm is trained with."""
        return self.out / "arms" / dataset / f"{arm}.toml"

    def model(self, dataset: str, arm: str) -> Path:
        """What an arm's training leaves at its end."""
        return self.out / "models" / dataset / arm / f"{dataset}-{arm}.safetensors"

    def dataset(self, name: str) -> Dataset:
        return next(dataset for dataset in self.datasets if dataset.name == name)

    def variant(self, role: str, budget: float | None = None) -> Variant | None:
        """The variant of that role, with that budget if one is named."""
        of_role = (v for v in self.variants if v.role == role and budget in (None, v.budget))
        return next(of_role, None)

    def cells(self, variant: Variant, dataset: Dataset) -> Iterator[Cell]:
        """Prompts outside, seeds inside."""
        for prompt in range(len(dataset.prompts)):
            for seed in self.seeds:
                yield Cell(dataset.name, variant.name, prompt, seed)


def pictures(folder: Path) -> list[Path]:
    """The images of a folder in the order of their names, sub-folders included; empty when there is no folder.

    Numbers count as numbers: 2.png is before 10.png.
    """
    found = (path for path in folder.rglob("*") if is_picture(path) and path.is_file())
    return sorted(found, key=lambda path: (_in_order(path.relative_to(folder).as_posix()), path))


def _in_order(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
