"""What the ranking page asks for. A rater's browser learns letters and pixels, never a file or a variant's name.

A session token goes in a header of every POST, and nothing is kept in cookies, so no other site can answer for a rater.
Picture addresses are random and looked up in memory; no part of an address is ever used as a path.
"""

import re
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from sga_kohya.errors import SgaError
from sga_kohya.evaluate.plan.plan import Cell, Plan
from sga_kohya.evaluate.rate.ballots import LETTERS, dense
from sga_kohya.evaluate.rate.judge import some_references
from sga_kohya.evaluate.rate.study import CONSENT, Item, Log, candidates, check
from sga_kohya.evaluate.sample.images import load, png, same_size
from sga_kohya.kit.one_page import OneRequest, Refused, Reply, Site
from sga_kohya.kit.values import is_number

RATER = re.compile(r"[A-Za-z0-9_-]{1,64}")
MOST_SESSIONS = 4096
NOT_SAVED = (
    "This could not be saved, and is not lost: leave the page open, tell whoever runs the study that the disk may be "
    "full, and send it again."
)


@dataclass
class RaterSession:
    """pictures: {random name: (what, place)} of the item on the page."""

    rater: str
    total: int
    pictures: dict[str, tuple[Any, int]] = field(default_factory=dict)


class Study:
    """What the page can ask for. Safe to call from several threads."""

    def __init__(self, plan: Plan, files: Mapping[Cell, Path]) -> None:
        check(plan)
        self.plan, self.files, self.log = plan, files, Log(plan)
        self.sessions: dict[str, RaterSession] = {}
        self.lock = threading.Lock()
        self.rendered, self.rendering = lru_cache(maxsize=32)(self._render), threading.Lock()

    def about(self) -> dict[str, Any]:
        human = self.plan.human
        return {"title": human.title, "consent": human.consent or CONSENT, "question": human.question}

    def start(self, request: Mapping[str, Any]) -> dict[str, Any]:
        rater = request.get("rater")
        if not isinstance(rater, str) or not RATER.fullmatch(rater):
            raise Refused(400, "Choose a rater id of up to 64 letters, digits, '-' and '_'.")
        if request.get("consent") is not True:
            raise Refused(403, "Taking part needs your consent.")
        try:
            self.log.consent(rater)
        except OSError as error:
            raise self._not_saved(error) from None
        left, token = self.log.left(self.plan, rater), secrets.token_urlsafe(24)
        answered = sum(name == rater for name, _ in self.log.answered.copy())
        with self.lock:
            self.sessions[token] = RaterSession(rater, answered + len(left))
            while len(self.sessions) > MOST_SESSIONS:
                del self.sessions[next(iter(self.sessions))]
        print(f"rater {rater}: {answered} answered, {len(left)} to go", flush=True)
        return {"session": token}

    def next(self, session: RaterSession) -> dict[str, Any]:
        left = self.log.left(self.plan, session.rater)
        if not left:
            return {"finished": True, "total": session.total}
        item = left[0]
        shown = self.plan.dataset(item.trial.dataset)
        references = [("reference", item.trial.dataset)] * self.plan.human.references
        names = {
            secrets.token_urlsafe(18): (what, place)
            for group in (references, [item] * len(item.order))
            for place, what in enumerate(group)
        }
        with self.lock:
            session.pictures = names
        addresses = [f"/picture/{name}" for name in names]
        return {
            "item": item.name,
            "number": session.total - len(left) + 1,
            "total": session.total,
            "prompt": shown.prompts[item.trial.prompt],
            "references": addresses[: len(references)],
            "candidates": dict(zip(LETTERS, addresses[len(references) :], strict=False)),
        }

    def answer(self, session: RaterSession, request: Mapping[str, Any]) -> dict[str, Any]:
        left = self.log.left(self.plan, session.rater)
        item = next((item for item in left if item.name == request.get("item")), None)
        if item is None:
            raise Refused(409, "This one is answered already.")
        letters, ranks, seconds = LETTERS[: len(item.order)], request.get("ranks"), request.get("seconds")
        if not isinstance(ranks, dict) or set(ranks) != set(letters):
            raise Refused(400, "Give every picture a rank.")
        if any(type(rank) is not int or not 1 <= rank <= len(letters) for rank in ranks.values()):
            raise Refused(400, f"Ranks go from 1 to {len(letters)}.")
        if not is_number(seconds) or seconds < 0:
            raise Refused(400, "The time of the answer is missing.")
        self._keep(session.rater, item, dense([ranks[letter] for letter in letters]), round(seconds, 2))
        if len(left) == 1:
            print(f"rater {session.rater}: finished", flush=True)
        return {"ok": True}

    def _keep(self, rater: str, item: Item, ranks: tuple[int, ...], seconds: float) -> None:
        try:
            first = self.log.answer(rater, item, ranks, seconds)
        except OSError as error:
            raise self._not_saved(error) from None
        if not first:
            raise Refused(409, "This one is answered already.")

    def _not_saved(self, error: OSError) -> Refused:
        print(f"warning: {self.log.path} cannot be written: {error}: make room; raters are told to wait", flush=True)
        return Refused(507, NOT_SAVED)

    def session(self, token: str | None) -> RaterSession:
        with self.lock:
            if token not in self.sessions:
                raise Refused(403, "The study was restarted: enter your rater id again to go on where you were.")
            return self.sessions[token]

    def picture(self, name: str) -> bytes:
        with self.lock:
            found = next((s.pictures[name] for s in self.sessions.values() if name in s.pictures), None)
        if found is None:
            raise Refused(404, "There is no such picture.")
        what, place = found
        try:
            with self.rendering:  # a page asks for all pictures of an item at once, which are rendered together
                return self.rendered(what)[place]
        except SgaError as error:
            print(f"warning: {error}", flush=True)
            raise Refused(500, "This picture cannot be read: tell whoever runs the study.") from None

    def _render(self, what: Item | tuple[str, str]) -> list[bytes]:
        if isinstance(what, Item):
            return [png(image) for image in candidates(self.plan, self.files, what)]
        size, count = self.plan.human.size, self.plan.human.references
        return [png(same_size([load(file)], size)[0]) for file in some_references(self.plan, what[1], count)]


class Handler(OneRequest):
    server: "Server"

    def get(self, path: str) -> Reply:
        study = self.server.study
        if path == "/":
            return Reply.page(__package__, "page.html")
        if path == "/about":
            return Reply.json(study.about())
        if path.startswith("/picture/"):
            return Reply("image/png", study.picture(path.removeprefix("/picture/")))
        raise Refused(404, "There is nothing here.")

    def post(self, path: str, request: Mapping[str, Any]) -> Reply:
        study = self.server.study
        if path == "/start":
            return Reply.json(study.start(request))
        session = study.session(self.headers.get("X-Session"))
        if path == "/next":
            return Reply.json(study.next(session))
        if path == "/answer":
            return Reply.json(study.answer(session, request))
        raise Refused(404, "There is nothing here.")


class Server(Site):
    """names: further ones under which a browser may open the page, such as that of a proxy."""

    def __init__(
        self,
        plan: Plan,
        files: Mapping[Cell, Path],
        host: str = "127.0.0.1",
        port: int = 0,
        names: Sequence[str] = (),
    ) -> None:
        super().__init__(Handler, host, port, names)
        try:
            self.study = Study(plan, files)
        except BaseException:
            self.server_close()
            raise
