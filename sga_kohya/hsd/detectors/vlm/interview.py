"""Asking a model many questions within bounds: usable replies are kept, others asked for again, failures counted."""

import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from tqdm import tqdm

from sga_kohya.errors import SgaError
from sga_kohya.hsd.detectors.options import Options
from sga_kohya.hsd.detectors.vlm.clients import Client, HttpClient, LocalClient, picture_message
from sga_kohya.hsd.photos.scaling import fit
from sga_kohya.kit.chat import ChatRefused, ChatUnavailable, Message
from sga_kohya.kit.files import move
from sga_kohya.kit.text import safe
from sga_kohya.kit.values import mapping, number, text, whole

DEFAULT_MODEL = "Qwen/Qwen2.5-VL-7B-Instruct"
"""Apache-2.0; used without an endpoint."""

ABOUT_THE_PICTURE = (400, 413, 422, 451)
"""Statuses by which a server refuses one request: too large, or against its rules. Others refuse all of them."""

FAILURES_IN_A_ROW = 10
"""So many say that the next would fail as well."""

LONGEST_SENT_BACK = 2000
"""Characters of an unusable reply that the model is shown again."""

T = TypeVar("T")
S = TypeVar("S")


class BadReply(ValueError):
    """A reply that cannot be used; the message says why, in words that the model is shown."""


@dataclass(frozen=True)
class Question:
    """about: what failures are counted by, such as a photo. jpeg: the picture it is about."""

    about: str
    text: str
    jpeg: bytes


class Interview:
    """Safe for several threads, which share the bounds."""

    def __init__(self, who: str, client: Client, cache: "ReplyCache", attempts: int = 3, max_calls: int = 0) -> None:
        """who: "detector vlm", for messages. attempts: calls for one question until a reply can be used. max_calls: of
        the model in this run, 0 for any number."""
        self.client, self.cache, self.attempts, self.max_calls = client, cache, attempts, max_calls
        self._who, self._calls, self._failed_in_a_row = who, 0, 0
        self._lock, self._turns = threading.Lock(), threading.BoundedSemaphore(client.parallel)
        self.unanswered: set[str] = set()
        """What the questions were about that got no answer."""
        self._given_up: set[str] = set()

    def side_by_side(self, function: Callable[[S], T], items: Iterable[S]) -> list[T]:
        """`function` of each, in order, in as many threads as the client takes questions at once."""
        with ThreadPoolExecutor(self.client.parallel) as pool, self._ending():  # Ctrl-C arrives here, errors below
            return list(pool.map(lambda item: self._guarded(function, item), items))

    def answer(self, question: Question, read: Callable[[str], T], form: str) -> T | None:
        """What `read` makes of a reply, an earlier run's where there is one; None, with a warning, when no attempt
        gives one that can be used.

        read: raises BadReply. form: ends the sentence by which the model is asked again, such as "with JSON only".
        Raises SgaError for what would fail at every question.
        """
        asked = json.dumps([self.client.model, question.text]).encode() + question.jpeg
        key = hashlib.sha256(asked).hexdigest()
        if key in self._given_up:
            return None
        try:
            return read(self.cache.read(key))
        except BadReply:  # none is kept, or it is damaged
            pass
        try:
            reply, found = self._converse(picture_message(question.text, question.jpeg), read, form)
        except (BadReply, ChatUnavailable, ChatRefused) as error:
            if isinstance(error, ChatRefused) and error.status not in ABOUT_THE_PICTURE:
                raise SgaError(f"{self._who}: {error}; {self._kept}") from error
            self._given_up.add(key)
            self._fail(question.about, error)
            return None
        self.cache.write(key, reply)
        with self._lock:
            self._failed_in_a_row = 0
        return found

    @property
    def limits(self) -> str:
        """The bounds, and what is free, to be said before the first question."""
        limit = f"at most {self.max_calls} calls (max_calls)" if self.max_calls else "no limit (max_calls)"
        return (
            f"up to {self.attempts} calls when replies cannot be used; {limit}; replies already in {self.cache.folder} "
            "are free"
        )

    def _guarded(self, function: Callable[[S], T], item: S) -> T:
        with self._ending():
            return function(item)

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """What ends the run ends the pauses of all threads at once: the others would be waited for."""
        try:
            yield
        except BaseException:
            self.client.end()
            raise

    def _converse(self, asked: Message, read: Callable[[str], T], form: str) -> tuple[str, T]:
        """A usable reply and what it says. Raises BadReply after the last attempt, and what asking raises."""
        messages = [asked]
        for attempt in range(1, self.attempts + 1):
            # A lone half of a character, which JSON can spell, can be neither kept nor sent.
            reply = self._ask(messages).encode("utf-8", "replace").decode()
            try:
                return reply, read(reply)
            except BadReply as error:
                if attempt == self.attempts:
                    raise BadReply(f"no usable reply in {attempt} attempts: {error}") from error
                complaint = f"This cannot be used: {error}. Answer the same question again, {form}."
                said = reply[:LONGEST_SENT_BACK]
                messages += [{"role": "assistant", "content": said}, {"role": "user", "content": complaint}]
        raise AssertionError("attempts is at least 1")

    def _ask(self, messages: Sequence[Message]) -> str:
        with self._lock:
            if self.max_calls and self._calls >= self.max_calls:
                raise SgaError(f"{self._who}: max_calls {self.max_calls} is spent; {self._kept}")
            self._calls += 1
        with self._turns:
            return self.client.ask(messages)

    def _fail(self, about: str, error: Exception) -> None:
        """Counts a question without an answer. Raises SgaError when too many come one after the other."""
        with self._lock:
            self.unanswered.add(about)
            self._failed_in_a_row += 1
            count, in_a_row = len(self.unanswered), self._failed_in_a_row
        if in_a_row >= FAILURES_IN_A_ROW:
            raise SgaError(f"{self._who}: {in_a_row} failures in a row, last {about!r}: {error}; {self._kept}")
        say(f"{about!r}: {error} (number {count} that fails)")

    @property
    def _kept(self) -> str:
        return f"every usable reply is kept in {self.cache.folder}, so the same command goes on from here"


@dataclass(frozen=True)
class Terms:
    """How an interview is held, as the user wants it. `side`: the longest of the pictures that are sent."""

    endpoint: str
    model: str
    key_variable: str
    request: dict[str, Any]
    timeout: float
    parallel: int
    max_new_tokens: int
    attempts: int
    max_calls: int
    side: int
    cache: Path
    device: str

    @classmethod
    def read(cls, options: Options, max_new_tokens: int) -> "Terms":
        """max_new_tokens: of a reply by transformers, where the user does not say."""
        read = options.read
        endpoint, model = read("endpoint", text, ""), read("model", text, "")
        home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        if endpoint and not endpoint.startswith(("http://", "https://")):
            options.problems.append(f"endpoint = {endpoint!r}: write a URL, such as http://localhost:8000/v1")
        if endpoint and not model:
            options.problems.append("no model: give the name by which the endpoint knows it, model=NAME")
        return cls(
            endpoint,
            model or DEFAULT_MODEL,
            read("api_key_env", text, "OPENAI_API_KEY"),
            read("request", mapping, {}),
            read("timeout", number(1), 120),
            read("parallel", whole(1), 4),
            read("max_new_tokens", whole(1), max_new_tokens),
            read("attempts", whole(1), 3),
            read("max_calls", whole(0), 0),
            read("side", whole(64), 1024),
            Path(read("cache", text, f"{home}/sga_kohya/vlm_replies")).expanduser(),
            options.device,
        )

    def interview(self, who: str) -> Interview:
        """Ready to ask. Raises SgaError for an address or a model that cannot be used."""
        client: Client
        if self.endpoint:
            how = (self.key_variable, self.timeout, self.parallel, self.request)
            client = HttpClient(self.endpoint, self.model, *how, say)
        else:
            client = LocalClient(self.model, self.device, self.max_new_tokens, who)
        return Interview(who, client, ReplyCache(self.cache), self.attempts, self.max_calls)

    def jpeg(self, pixels: np.ndarray) -> tuple[bytes, tuple[int, int]]:
        """(H, W, 3) RGB as it is sent, and its width and height there."""
        small = fit(pixels, self.side)
        encoded = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
        return encoded, (small.shape[1], small.shape[0])


class ReplyCache:
    """Usable replies by the hash of picture, question and model, a file each: a run after a kill pays nothing twice."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def read(self, key: str) -> str:
        """ "" where there is none."""
        try:
            return self._file(key).read_text(encoding="utf-8")
        except (FileNotFoundError, UnicodeDecodeError):
            return ""

    def write(self, key: str, reply: str) -> None:
        file = self._file(key)
        temporary = file.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")
        temporary.write_text(reply, encoding="utf-8")
        move(temporary, file)

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.txt"


def say(warning: str) -> None:
    tqdm.write(f"warning: {safe(warning)}", file=sys.stderr)
