"""Serve the ranking page. A rater's browser learns letters and pixels, never a file or a variant's name.

A session token goes in a header of every POST, and nothing is kept in cookies, so no other site can answer for a rater.
Picture addresses are random and looked up in memory; no part of an address is ever used as a path.
"""

import json
import math
import re
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from sga_kohya.errors import SgaError
from sga_kohya.evaluate.plan.plan import Cell, Plan
from sga_kohya.evaluate.rate.ballots import LETTERS, dense
from sga_kohya.evaluate.rate.judge import some_references
from sga_kohya.evaluate.rate.study import CONSENT, Item, Log, candidates, check
from sga_kohya.evaluate.sample.images import load, png, same_size

LOOPBACK = ("127.0.0.1", "localhost")
RATER = re.compile(r"[A-Za-z0-9_-]{1,64}")
LARGEST_BODY = 16_384  # bytes


class Refused(Exception):
    """An HTTP status and a sentence for the page."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass
class Session:
    """pictures: {random name: (what, place)} of the item on the page."""

    rater: str
    total: int
    pictures: dict[str, tuple[Any, int]] = field(default_factory=dict)


class Study:
    """What the page can ask for. Safe to call from several threads."""

    def __init__(self, plan: Plan, files: Mapping[Cell, Path]) -> None:
        check(plan)
        self.plan, self.files, self.log = plan, files, Log(plan)
        self.sessions: dict[str, Session] = {}
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
        self.log.consent(rater)
        left, token = self.log.left(self.plan, rater), secrets.token_urlsafe(24)
        answered = sum(name == rater for name, _ in self.log.answered.copy())
        with self.lock:
            self.sessions[token] = Session(rater, answered + len(left))
        print(f"rater {rater}: {answered} answered, {len(left)} to go", flush=True)
        return {"session": token}

    def next(self, session: Session) -> dict[str, Any]:
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

    def answer(self, session: Session, request: Mapping[str, Any]) -> dict[str, Any]:
        left = self.log.left(self.plan, session.rater)
        item = next((item for item in left if item.name == request.get("item")), None)
        if item is None:
            raise Refused(409, "This one is answered already.")
        letters, ranks, seconds = LETTERS[: len(item.order)], request.get("ranks"), request.get("seconds")
        if not isinstance(ranks, dict) or set(ranks) != set(letters):
            raise Refused(400, "Give every picture a rank.")
        if any(type(rank) is not int or not 1 <= rank <= len(letters) for rank in ranks.values()):
            raise Refused(400, f"Ranks go from 1 to {len(letters)}.")
        if type(seconds) not in (int, float) or not math.isfinite(seconds) or seconds < 0:
            raise Refused(400, "The time of the answer is missing.")
        if not self.log.answer(session.rater, item, dense([ranks[letter] for letter in letters]), round(seconds, 2)):
            raise Refused(409, "This one is answered already.")
        if len(left) == 1:
            print(f"rater {session.rater}: finished", flush=True)
        return {"ok": True}

    def session(self, token: str | None) -> Session:
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
        with self.rendering:  # a page asks for all pictures of an item at once, which are rendered together
            return self.rendered(what)[place]

    def _render(self, what: Item | tuple[str, str]) -> list[bytes]:
        if isinstance(what, Item):
            return [png(image) for image in candidates(self.plan, self.files, what)]
        size, count = self.plan.human.size, self.plan.human.references
        return [png(same_size([load(file)], size)[0]) for file in some_references(self.plan, what[1], count)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "study", ""
    timeout = 60

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _get(self) -> None:
        study, path = self.server.study, self.path.partition("?")[0]
        if path == "/":
            nonce = secrets.token_urlsafe(16)
            page = resources("sga_kohya.evaluate.rate").joinpath("page.html").read_text(encoding="utf-8")
            policy = f"default-src 'none'; img-src 'self' data:; connect-src 'self'; script-src 'nonce-{nonce}'; "
            policy += f"style-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
            self._send(200, "text/html; charset=utf-8", page.replace("$nonce", nonce).encode(), policy)
        elif path == "/about":
            self._json(200, study.about())
        elif path.startswith("/picture/"):
            self._send(200, "image/png", study.picture(path.removeprefix("/picture/")))
        else:
            raise Refused(404, "There is nothing here.")

    def _post(self) -> None:
        study, origin = self.server.study, self.headers.get("Origin")
        if origin is not None and origin.partition("://")[2] != self.headers.get("Host"):
            raise Refused(403, "Another site may not answer.")
        if self.headers.get("Content-Type", "").partition(";")[0] != "application/json":
            raise Refused(415, "Send JSON.")
        request = self._body()
        if self.path == "/start":
            return self._json(200, study.start(request))
        session = study.session(self.headers.get("X-Session"))
        if self.path == "/next":
            return self._json(200, study.next(session))
        if self.path == "/answer":
            return self._json(200, study.answer(session, request))
        raise Refused(404, "There is nothing here.")

    def _body(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > LARGEST_BODY:
            self.close_connection = True  # its body was not read
            raise Refused(413, f"Send at most {LARGEST_BODY} bytes.")
        try:
            request = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            raise Refused(400, "Send JSON.") from None
        if not isinstance(request, dict):
            raise Refused(400, "Send a JSON object.")
        return request

    def _answer(self, handle: Any) -> None:
        try:
            # Against DNS rebinding: a page of another name that resolves to this machine is not served.
            if self.server.hosts is not None and self.headers.get("Host") not in self.server.hosts:
                raise Refused(403, "Open this page by the address that the study printed.")
            handle()
        except Refused as refused:
            self._json(refused.status, {"error": str(refused)})
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _json(self, status: int, content: Mapping[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(content).encode())

    def _send(self, status: int, kind: str, body: bytes, policy: str = "default-src 'none'") -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """The log of requests would hold picture addresses and nothing of use."""


class Server(ThreadingHTTPServer):
    """hosts: the Host headers that are answered, None for any."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, plan: Plan, files: Mapping[Cell, Path], host: str = "127.0.0.1", port: int = 0) -> None:
        try:
            super().__init__((host, port), Handler)
        except (OSError, OverflowError) as error:
            raise SgaError(f"--host {host} --port {port}: {error}; use another port, 0 for any") from None
        port = self.server_address[1]
        self.hosts = {f"{name}:{port}" for name in LOOPBACK} if host in LOOPBACK else None
        try:
            self.study = Study(plan, files)
        except BaseException:
            self.server_close()
            raise
        self.url = f"http://{host}:{port}/"
