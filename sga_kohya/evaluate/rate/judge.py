"""A language model that sees the references and the variants, blind and in balanced order, and ranks them.

The paper's judge (section 4.3.1) ranks by three dimensions; beside it, the same questions asked again, asked in another
order, and asked of identical pictures tell how far to believe it.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sga_kohya.errors import SgaError
from sga_kohya.evaluate.plan.plan import Cell, Plan
from sga_kohya.evaluate.rate.ballots import (
    LETTERS,
    Ballot,
    Trial,
    all_trials,
    balanced_orders,
    dense,
    is_ballot,
    moved,
    refuse_foreign,
)
from sga_kohya.evaluate.rate.endpoint import BudgetSpent, Endpoint
from sga_kohya.evaluate.sample.images import load, png, same_size
from sga_kohya.kit.chat import picture_part, text_part
from sga_kohya.kit.files import write_whole
from sga_kohya.kit.journal import read_rows

DIMENSIONS = ("geometry", "rendering", "aesthetics", "overall")
INSTRUCTIONS = """\
You compare pictures that image models made after being adapted to one visual domain. You see reference pictures of
that domain, the text prompt, and candidate pictures named by letters, in an order that means nothing. Judge how
faithfully each candidate belongs to the domain, in three dimensions:
geometry: shapes, proportions, anatomy, structure, symbols and lettering are right;
rendering: materials, line, texture, light and detail are of the quality and manner of the references;
aesthetics: the picture holds together as a whole.
Then rank them overall. Rank 1 is the best. Give equal ranks to candidates between which you see no difference, and
only then. Answer with one JSON object and nothing else, of exactly this form, with a rank for each letter:
"""


@dataclass(frozen=True)
class Question:
    """copy: 0, and other numbers where the same is asked again."""

    kind: str
    trial: Trial
    order: tuple[str, ...]
    copy: int = 0


@dataclass(frozen=True)
class Verdict:
    """What a run of the judge came to. failed: questions without a valid answer. dollars: spent so far in all.

    lost: replies that did not arrive whole.
    """

    ballots: tuple[Ballot, ...]
    failed: int
    unasked: int
    dollars: float
    requests: int
    lost: int = 0


def questions(plan: Plan) -> list[Question]:
    """Every trial once in a balanced order, and a seeded choice of them again as repeats, reorders and controls."""
    judge, generator = plan.judge_asked, np.random.default_rng(plan.seed)
    names = plan.variant_names
    trials = all_trials(plan)
    orders = balanced_orders(names, len(trials), generator)
    main = [Question("main", trial, order) for trial, order in zip(trials, orders, strict=True)]

    def some(count: int) -> list[Question]:
        return [main[place] for place in generator.permutation(len(main))[:count]]

    repeats = [Question("repeat", q.trial, q.order, copy=1) for q in some(judge.repeats)]
    reorders = [Question("reorder", q.trial, moved(q.order)) for q in some(judge.reorders)]
    controls = [
        Question("control", q.trial, (names[number % len(names)],) * len(names))
        for number, q in enumerate(some(judge.controls))
    ]
    return main + repeats + reorders + controls


class Asker:
    """Makes the messages of a question. files: of every image of the plan."""

    def __init__(self, plan: Plan, files: Mapping[Cell, Path]) -> None:
        self.plan, self.files = plan, files
        self.references = lru_cache(maxsize=None)(self._references)
        self.digest = lru_cache(maxsize=None)(lambda path: hashlib.sha256(path.read_bytes()).hexdigest())

    def shown(self, question: Question) -> list[Path]:
        trial = question.trial
        return [self.files[Cell(trial.dataset, name, trial.prompt, trial.seed)] for name in question.order]

    def identity(self, question: Question) -> str:
        """Whatever the messages depend on, found without opening a picture."""
        trial = question.trial
        files = [*self.reference_files(trial.dataset), *self.shown(question)]
        prompt = self.plan.dataset(trial.dataset).prompts[trial.prompt]
        content = [INSTRUCTIONS, prompt, self.plan.judge_asked.size, question.copy, *map(self.digest, files)]
        return json.dumps(content)

    def messages(self, question: Question) -> list[dict[str, Any]]:
        trial, letters = question.trial, LETTERS[: len(question.order)]
        prompt = self.plan.dataset(trial.dataset).prompts[trial.prompt]
        shown = same_size([load(path) for path in self.shown(question)], self.plan.judge_asked.size)
        parts: list[dict[str, Any]] = [text_part("References of the domain:"), *self.references(trial.dataset)]
        parts.append(text_part(f"Prompt: {prompt}"))
        for letter, image in zip(letters, shown, strict=True):
            parts += [text_part(f"Candidate {letter}:"), picture_part(png(image))]
        return [{"role": "system", "content": INSTRUCTIONS + example(letters)}, {"role": "user", "content": parts}]

    def _references(self, dataset: str) -> list[dict[str, Any]]:
        files = self.reference_files(dataset)
        return [picture_part(png(same_size([load(file)], self.plan.judge_asked.size)[0])) for file in files]

    def reference_files(self, dataset: str) -> list[Path]:
        return some_references(self.plan, dataset, self.plan.judge_asked.references)


def some_references(plan: Plan, dataset: str, count: int) -> list[Path]:
    """A seeded choice, the same for all questions on a dataset."""
    files = plan.dataset(dataset).references
    places = np.random.default_rng(plan.seed).permutation(len(files))[:count]
    return [files[place] for place in sorted(places)]


def example(letters: str) -> str:
    """The form of an answer, for the instructions."""
    return json.dumps({dimension: dict.fromkeys(letters, "rank") for dimension in DIMENSIONS})


def parse(text: str, letters: str) -> dict[str, tuple[int, ...]]:
    """The ranks of an answer, {dimension: ranks in the order of letters}. Raises ValueError that says what is wrong."""
    begin, end = text.find("{"), text.rfind("}")
    if begin < 0 or end < begin:
        raise ValueError("there is no JSON object in it")
    try:
        answer = json.loads(text[begin : end + 1])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not valid JSON ({error})") from None
    ranks = {}
    for dimension in DIMENSIONS:
        given = answer.get(dimension)
        if not isinstance(given, dict) or set(given) != set(letters):
            raise ValueError(f"{dimension!r} must be an object with a rank for each of {', '.join(letters)}")
        for letter, rank in given.items():
            if type(rank) is not int or not 1 <= rank <= len(letters):
                raise ValueError(
                    f"the rank of {letter} in {dimension!r} is {str(rank)[:40]}, not one of 1 to {len(letters)}"
                )
        ranks[dimension] = dense([given[letter] for letter in letters])
    return ranks


def ask(plan: Plan, asker: Asker, endpoint: Endpoint, question: Question) -> Ballot | None:
    """The answer, or None when none of the attempts was valid. Raises BudgetSpent."""
    identity, letters = asker.identity(question), LETTERS[: len(question.order)]
    said: list[dict[str, Any]] = []
    for attempt in range(plan.judge_asked.attempts):
        text = endpoint.ask(identity, attempt, partial(_conversation, asker, question, said))
        try:
            ranks = parse(text, letters)
        except ValueError as error:
            complaint = f"That answer cannot be used: {error}. Answer again, with the JSON object only."
            said = [*said, {"role": "assistant", "content": text}, {"role": "user", "content": complaint}]
            continue
        return Ballot(plan.judge_asked.model, question.kind, question.trial, question.order, ranks)
    return None


def _conversation(asker: Asker, question: Question, said: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*asker.messages(question), *said]


def estimate(plan: Plan, asker: Asker, endpoint: Endpoint) -> tuple[int, float]:
    """How many questions have no reply yet, and what asking them would cost in dollars."""
    todo = [question for question in questions(plan) if not endpoint.file(asker.identity(question)).is_file()]
    return len(todo), len(todo) * endpoint.estimate(asker.messages(todo[0])) if todo else 0.0


def judge(plan: Plan, files: Mapping[Cell, Path], only_estimate: bool = False, pause: float = 1.0) -> Verdict | None:
    """Ask what is not answered yet and write judge/ballots.jsonl. Raises SgaError where the budget does not suffice."""
    asked = plan.judge_asked
    asker, endpoint = Asker(plan, files), Endpoint(asked, plan.out / "judge" / "replies", pause)
    endpoint.count_spent()
    count, dollars = estimate(plan, asker, endpoint)
    total = len(questions(plan))
    for warning in _warnings(plan, endpoint):
        print(f"warning: {warning}", flush=True)
    print(
        f"judge {asked.model}: {total} questions, {total - count} answered already; the rest is estimated at "
        f"${dollars:.2f}, ${endpoint.spent:.2f} were spent, the budget is ${asked.budget:.2f}",
        flush=True,
    )
    if only_estimate:
        return None
    if endpoint.spent + dollars > asked.budget:
        raise SgaError(
            f"[judge]: budget = {asked.budget:g} is below the estimated ${endpoint.spent + dollars:.2f}: raise "
            "it, or use fewer seeds, smaller pictures or fewer references"
        )
    verdict = _ask_all(plan, asker, endpoint)
    save(plan, verdict)
    if verdict.unasked:
        raise SgaError(
            f"the budget of ${asked.budget:g} is spent (${verdict.dollars:.2f}) with {verdict.unasked} questions "
            "left, for replies were longer than estimated; raise it and run again, answers so far are kept"
        )
    return verdict


def _warnings(plan: Plan, endpoint: Endpoint) -> Iterator[str]:
    if endpoint.damaged:
        yield f"{endpoint.damaged} kept replies are damaged (NAME.damaged): they count as spent and are asked again"
    if endpoint.chat.key and not endpoint.chat.is_private:
        key = plan.judge_asked.api_key_env
        yield f"{endpoint.chat.url} is not encrypted: {key} and the pictures can be read on the way"


def _ask_all(plan: Plan, asker: Asker, endpoint: Endpoint) -> Verdict:
    def one(question: Question) -> Ballot | str:
        try:
            return ask(plan, asker, endpoint, question) or "failed"
        except BudgetSpent:
            return "unasked"

    pool = ThreadPoolExecutor(plan.judge_asked.parallel)
    try:
        answers = list(tqdm(pool.map(one, asked := questions(plan)), total=len(asked), desc="judge", unit="question"))
    except BaseException:
        endpoint.chat.end()  # what was asked is waited for, for it is paid; nothing is asked again
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    ballots = tuple(answer for answer in answers if isinstance(answer, Ballot))
    failed, unasked = answers.count("failed"), answers.count("unasked")
    return Verdict(ballots, failed, unasked, endpoint.spent, endpoint.requests, endpoint.lost)


def ballots_file(plan: Plan) -> Path:
    return plan.out / "judge" / "ballots.jsonl"


def save(plan: Plan, verdict: Verdict) -> None:
    path = ballots_file(plan)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, "".join(f"{json.dumps(b.to_json())}\n" for b in verdict.ballots))


def read(plan: Plan) -> list[Ballot]:
    """The judge's answers; empty before it ran."""
    path = ballots_file(plan)
    if not path.is_file():
        return []
    rows, torn = read_rows(path)
    if torn or not all(map(is_ballot, rows)):
        raise SgaError(f"{path} is damaged: run `judge` again; it writes it from the replies it has, at no cost")
    ballots = [Ballot.from_json(row) for row in rows]
    refuse_foreign(plan, ballots, path)
    return ballots
