"""Read a plan from TOML (examples/evaluate/plan.toml shows every field): one error lists everything that is wrong."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from sga_kohya.errors import SgaError
from sga_kohya.evaluate.plan import arms
from sga_kohya.evaluate.plan.arms import ARMS
from sga_kohya.evaluate.plan.plan import ROLES, Dataset, Human, Judge, Metrics, Plan, Training, Variant, pictures
from sga_kohya.evaluate.trainers import trainer_of
from sga_kohya.hosts.sampling import Sampling
from sga_kohya.kit.fields import Fields
from sga_kohya.kit.text import UnreadableText, lines_of, read_text
from sga_kohya.kit.toml_file import read_toml
from sga_kohya.kit.values import Reader, boolean, listed, mapping, number, one_of, text, whole

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def read_plan(path: Path) -> Plan:
    """Raises one SgaError that lists everything wrong with the plan, with a remedy each."""
    if not path.exists():
        raise SgaError(
            f"{path}: there is no such plan; `python -m sga_kohya.presets copy plan .` gives one to start from"
        )
    values = read_toml(path)
    problems: list[str] = []
    plan = _plan(Fields(values, "", problems), path.resolve().parent)
    if problems:
        listed = "".join(f"\n  - {problem}" for problem in problems)
        raise SgaError(f"{path} has {len(problems)} problem{'s' * (len(problems) > 1)}:{listed}")
    return plan


def _plan(table: Fields, folder: Path) -> Plan:
    seeds = table.read("seeds", listed(whole(0)), (), required=True)
    if len(set(seeds)) < len(seeds):
        table.complain("seeds", f"= {list(seeds)}: write different numbers from 0")
    elif table.values.get("seeds") == []:
        table.complain("seeds", "is empty: write five or more, such as [1, 2, 3, 4, 5]")
    trains = "train" in table.values
    datasets = tuple(_dataset(entry, folder, trains) for entry in table.tables("datasets"))
    sampling = _fields(Sampling, table.table("generate"))
    variants = tuple(_variant(entry, [d.name for d in datasets]) for entry in table.tables("variants", not trains))
    confidence = table.read("confidence", number(), 0.95)
    if not 0.5 <= confidence < 1:
        table.complain("confidence", f"= {confidence}: write a number from 0.5 to below 1, such as 0.95")
    plan = Plan(
        title=table.read("title", text, "Evaluation"),
        out=folder / table.read("out", text, "evaluation"),
        seeds=seeds,
        datasets=datasets,
        variants=variants,
        folder=folder,
        seed=table.read("seed", whole(0), 0),
        bootstrap=table.read("bootstrap", whole(100), 2000),
        confidence=confidence,
        tolerance_minutes=table.read("tolerance_minutes", number(0), 30.0),
        paper=table.read("paper", one_of(("flux", "sdxl")), ""),
        sampling=sampling,
        metrics=_fields(Metrics, table.table("metrics")),
        judge=_judge(table) if "judge" in table.values else None,
        human=_fields(Human, table.table("human")),
    )
    table.known |= {"judge", "train"}
    if trains:
        plan = _with_arms(plan, table, folder)
    _check_together(plan, table)
    table.refuse_unknown()
    return plan


def _with_arms(plan: Plan, table: Fields, folder: Path) -> Plan:
    """The plan whose variants are the arms of [train], before those that it has itself."""
    train = _training(table.table("train"), folder, plan.datasets)
    if train is None:
        return plan
    plan = replace(plan, train=train)
    made = [variant for arm in train.arms for variant in _variants_of(plan, train, arm)]
    sampling, given = plan.sampling, table.values.get("generate", {})
    script = train.trainer.draws(train.door, train.settings)
    if script:
        own: dict[str, Any] = {"script": script, "config": str(plan.arm_toml("{dataset}", "{variant}"))}
        sampling = replace(sampling, **{key: value for key, value in own.items() if key not in given})
    elif "script" not in given:
        table.complain("[generate]", f"script is missing: {train.base} is a full fine-tune, which cannot sample itself")
    return replace(plan, variants=(*made, *plan.variants), sampling=sampling)


def _variants_of(plan: Plan, train: Training, arm: str) -> Iterator[Variant]:
    """What is compared of an arm: its final model, or its checkpoints at the multiples of N1."""
    label, models = ARMS[arm].label, {dataset.name: plan.model(dataset.name, arm) for dataset in plan.datasets}
    if not train.budgets:
        weights = {name: str(path) for name, path in models.items()}
        yield Variant(arm, label, role=arm, budget=0.0, weights=weights, arm=arm)
    folders = {name: str(path.parent) for name, path in models.items()}
    for budget in train.budgets:
        yield Variant(
            f"{arm}-{budget:g}",
            f"{label} ({budget:g} N1)",
            role=arm,
            budget=budget,
            run=folders,
            output_name=f"{{dataset}}-{arm}",
            arm=arm,
        )


def _training(table: Fields, folder: Path, datasets: Sequence[Dataset]) -> Training | None:
    """[train]; None where its base cannot be read."""
    named = table.read("base", text, "", required=True)
    door = table.read("door", text, "").removesuffix(".py")
    chosen = table.read("arms", listed(text), ()) or tuple(ARMS)
    launch = table.read("launch", listed(text), ()) or ("accelerate", "launch")
    budgets = table.read("budgets", listed(number(1e-9)), ())
    table.refuse_unknown()
    if wrong := [arm for arm in chosen if arm not in ARMS]:
        table.complain("arms", f"hold {wrong[0]!r}: write some of {', '.join(ARMS)}")
    if len(set(chosen)) < len(chosen):
        table.complain("arms", f"= {list(chosen)}: write each once")
    if not named or wrong:
        return None
    base = folder / os.path.expanduser(named)
    try:
        toml_text, settings = arms.read_base(base)
        trainer = trainer_of(settings)
        door = door or trainer.guess(settings)
        table.problems += arms.problems(base, settings, timed=bool(budgets))
        for dataset in datasets:
            for data in sorted({ARMS[arm].data(trainer) for arm in chosen}):
                if not arms.pictures_an_epoch(dataset.slices / data, trainer):
                    raise SgaError(f"{dataset.slices / data}: it has no pictures, so an arm would train on nothing")
            arms.arm_toml(base, toml_text, ARMS[chosen[0]], {"output_dir": "", "output_name": ""}, dataset.slices)
    except (SgaError, OSError) as error:
        table.complain("base", f"= {named!r}: {error}")
        return None
    if door not in trainer.doors():
        table.complain("door", f"= {door!r}: write one of {', '.join(trainer.doors())}")
    return Training(base, toml_text, settings, door, chosen, launch, budgets, trainer)


def _dataset(table: Fields, folder: Path, trains: bool = False) -> Dataset:
    name = _name(table)
    prompts = table.read("prompts", listed(text), ())
    if file := table.read("prompts_file", text, ""):
        prompts += _lines_of(folder / os.path.expanduser(file), file, table)
    prompts = tuple(prompt.strip() for prompt in prompts if prompt.strip() and not prompt.startswith("#"))
    if not prompts:
        table.complain("prompts", "are missing; write them as a list, or one a line in a prompts_file")
    if len(set(prompts)) < len(prompts):
        table.complain("prompts", "hold one twice; write each once, seeds repeat it")
    wanted = table.read("references", text, "", required=True)
    references = _pictures_of(folder / os.path.expanduser(wanted), wanted, table) if wanted else ()
    slices = folder / os.path.expanduser(table.read("slices", text, "", required=trains))
    dataset = Dataset(name, prompts, references, table.read("n1_hours", number(1e-9)), slices)
    table.refuse_unknown()
    return dataset


def _pictures_of(path: Path, wanted: str, table: Fields) -> tuple[Path, ...]:
    try:
        found = tuple(pictures(path))
    except OSError as error:  # such as a name that is too long
        table.complain("references", f"= {wanted!r}: cannot be read ({error.strerror})")
        return ()
    if not found:
        table.complain("references", f"= {wanted!r}: no image in {path}")
    return found


def _lines_of(path: Path, file: str, table: Fields) -> tuple[str, ...]:
    try:
        return tuple(lines_of(read_text(path)))
    except FileNotFoundError:
        table.complain("prompts_file", f"= {file!r}: {path} does not exist")
    except UnreadableText as error:
        table.complain("prompts_file", f"= {file!r}: {error}")
    except OSError as error:
        table.complain("prompts_file", f"= {file!r}: {path} cannot be read ({error.strerror})")
    return ()


def _variant(table: Fields, datasets: list[str]) -> Variant:
    name = _name(table)
    templates: dict[str, Any] = {key: _template(table, key, datasets) for key in ("images", "weights", "run")}
    if sum(map(bool, templates.values())) > 1:
        table.complain("images, weights, run", "exclude each other: write one of them")
    variant = Variant(
        name=name,
        label=table.read("label", text, name),
        role=table.read("role", one_of(ROLES), ""),
        budget=table.read("budget", number(0), 1.0),
        output_name=table.read("output_name", text, ""),
        arguments=table.read("arguments", mapping, {}),
        **templates,
    )
    table.refuse_unknown()
    return variant


def _template(table: Fields, key: str, datasets: list[str]) -> str | Mapping[str, str]:
    if isinstance(table.values.get(key), Mapping):
        paths = table.read(key, mapping, {})
        if missing := [name for name in datasets if not isinstance(paths.get(name), str)]:
            table.complain(key, f"has no path for the dataset {missing[0]}")
        return paths
    return table.read(key, text, "")


def _judge(table: Fields) -> Judge:
    entry = table.table("judge")
    for key in ("url", "model", "price_input", "price_output", "budget"):
        if key not in entry.values:
            remedy = "write 0 for a model of your own" if key.startswith("price") else "write it"
            entry.complain(key, f"is missing; {remedy}")
    judge = _fields(Judge, entry)
    if judge.url and not judge.url.startswith(("http://", "https://")):
        entry.complain("url", f"= {judge.url!r}: write the endpoint's base, such as https://api.openai.com/v1")
    return judge


T = TypeVar("T", Human, Judge, Metrics, Sampling)

# The least value of a number, where it is not 0.
_LEAST = {"width": 64, "height": 64, "steps": 1, "size": 64, "batch_size": 1}
_LEAST |= {"attempts": 1, "parallel": 1, "timeout": 1}


def _fields(kind: type[T], table: Fields) -> T:
    """A dataclass whose fields are the table's keys, each of the type of its default."""
    values = table.given({name.name: _reader(name.name, getattr(kind, name.name, None)) for name in fields(kind)})
    table.refuse_unknown()
    return kind(**values)


def _reader(name: str, default: object) -> Reader[Any]:
    if isinstance(default, tuple):
        return listed(text)
    least = _LEAST.get(name, 0)
    by_type = {bool: boolean, int: whole(least), float: number(least), str: text}
    return by_type.get(type(default), mapping)


def _name(table: Fields) -> str:
    name = table.read("name", text, "", required=True)
    if name and not NAME.fullmatch(name):
        table.complain("name", f"= {name!r}: use letters, digits, '.', '_' and '-', at most 64, for it names folders")
    return name


def _check_together(plan: Plan, table: Fields) -> None:
    for kind, names in (
        ("datasets", [dataset.name for dataset in plan.datasets]),
        ("variants", list(plan.variant_names)),
    ):
        if len({name.casefold() for name in names}) < len(names):
            table.complain(kind, f"{names}: names must differ in more than case")
    if "variants" in table.values and len(plan.variants) < 2:
        table.complain("variants", f"are {len(plan.variants)}: write two or more to compare")
    if "datasets" in table.values and not plan.datasets:
        table.complain("datasets", "are none: write one or more")
    if len(plan.variants) > 26:
        table.complain("variants", f"are {len(plan.variants)}; at most 26 have letters")
    sizes = {s.name: len(s.references) for s in plan.datasets if 0 < len(s.references) < plan.human.references}
    if plan.judge:
        sizes |= {s.name: len(s.references) for s in plan.datasets if 0 < len(s.references) < plan.judge.references}
    for name, count in sizes.items():
        table.complain("references", f"to show are more than the {count} that dataset {name} has: lower them")
    for variant in plan.variants:
        if variant.run and (missing := [d.name for d in plan.datasets if d.n1_hours is None]):
            table.complain("n1_hours", f"of dataset {missing[0]} is missing; variant {variant.name} needs it for `run`")
