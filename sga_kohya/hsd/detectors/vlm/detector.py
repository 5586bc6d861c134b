"""The detector `vlm`: one question a view for all levels, replies validated, asked again when unusable, and kept."""

import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import cv2
from tqdm import tqdm

from sga_kohya.errors import SgaError
from sga_kohya.hsd.cut.geometry import Size
from sga_kohya.hsd.detect import Detection, View
from sga_kohya.hsd.detectors.classes import Found
from sga_kohya.hsd.detectors.labels import phrases
from sga_kohya.hsd.detectors.letterbox import best_first, to_detection
from sga_kohya.hsd.detectors.options import Options
from sga_kohya.hsd.detectors.vlm.clients import Client, HttpClient, LocalClient, picture_message
from sga_kohya.hsd.detectors.vlm.reply import RELATIVE, BadReply, complaint, question, read_reply
from sga_kohya.hsd.out.manifest import MANIFEST
from sga_kohya.hsd.photos.images import find_images, fit
from sga_kohya.kit.chat import ChatRefused, ChatUnavailable, Message
from sga_kohya.kit.files import move
from sga_kohya.kit.text import safe

DEFAULT_MODEL = "Qwen/Qwen2.5-VL-7B-Instruct"
"""Apache-2.0; used without an endpoint."""


ABOUT_THE_PICTURE = (400, 413, 422, 451)
"""Statuses by which a server refuses one request: too large, or against its rules. Others refuse all of them."""

FAILURES_IN_A_ROW = 10
"""So many say that the next would fail as well."""

LONGEST_SENT_BACK = 2000
"""Characters of an unusable reply that the model is shown again."""


class VlmDetector:
    name = "vlm"

    def __init__(
        self,
        client: Client,
        labels: Mapping[str, Sequence[str]],
        cache: "ReplyCache",
        side: int = 1024,
        pixels: bool = False,
        attempts: int = 3,
        max_calls: int = 0,
    ) -> None:
        """labels: phrases by level, coarse to fine. side: the longest of the picture that is sent. pixels: ask for
        boxes in its pixels, not in thousandths. attempts: questions for one view until a reply can be used. max_calls:
        of the model in this run, 0 for any number.
        """
        self._client, self._labels, self._cache = client, labels, cache
        self._side, self._pixels, self._attempts, self._max_calls = side, pixels, attempts, max_calls
        self._coarsest, *self._finer = labels
        self._calls, self._lock = 0, threading.Lock()
        self._failed_in_a_row = 0
        self.unanswered: set[str] = set()
        self._given_up: set[str] = set()

    def detect(self, views: Sequence[View], level: str) -> list[list[Detection]]:
        # The finer levels are asked for in one question; the coarsest, in split mode, before there are regions.
        levels = [self._coarsest] if level == self._coarsest else self._finer
        asked = tuple(dict.fromkeys(label for name in levels for label in self._labels[name]))
        with ThreadPoolExecutor(self._client.parallel) as pool, self._ending():  # Ctrl-C arrives here, errors below
            found = list(pool.map(lambda view: self._find(view, asked), views))
        return [
            best_first(
                [
                    to_detection(_in_pixels(corners, view.size), score, level, label, view.size)
                    for corners, score, label in answer
                    if label in self._labels[level]
                ]
            )
            for view, answer in zip(views, found, strict=True)
        ]

    def _find(self, view: View, labels: Sequence[str]) -> list[Found]:
        """What the model answers; nothing, with a warning, when no attempt gives a reply that can be used."""
        with self._ending():
            return self._kept_or_asked(view, labels)

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """What ends the run ends the pauses of all threads at once: the others would be waited for."""
        try:
            yield
        except BaseException:
            self._client.end()
            raise

    def _kept_or_asked(self, view: View, labels: Sequence[str]) -> list[Found]:
        text, jpeg, extent = self._question(view, labels)
        key = hashlib.sha256(json.dumps([self._client.model, text]).encode() + jpeg).hexdigest()
        if key in self._given_up:  # a level of the same view, which the same question is for
            return []
        try:
            return read_reply(self._cache.read(key), labels, extent)
        except BadReply:  # none is kept, or it is damaged
            pass
        try:
            reply, found = self._converse(picture_message(text, jpeg), labels, extent)
        except (BadReply, ChatUnavailable, ChatRefused) as error:
            if isinstance(error, ChatRefused) and error.status not in ABOUT_THE_PICTURE:
                raise SgaError(f"detector vlm: {error}; {self._kept}") from error
            self._given_up.add(key)
            self._fail(view.source, error)
            return []
        self._cache.write(key, reply)
        with self._lock:
            self._failed_in_a_row = 0
        return found

    def _question(self, view: View, labels: Sequence[str]) -> tuple[str, bytes, Size]:
        """What is asked; the picture; what the right and lower edges are called in the answer."""
        small = fit(view.pixels, self._side)
        size: Size = small.shape[1::-1]
        jpeg = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
        text = question(labels, size if self._pixels else None)
        return text, jpeg, size if self._pixels else (RELATIVE, RELATIVE)

    def _converse(self, asked: Message, labels: Sequence[str], extent: Size) -> tuple[str, list[Found]]:
        """A usable reply and what it says. Raises BadReply after the last attempt, and what asking raises."""
        messages = [asked]
        for attempt in range(1, self._attempts + 1):
            # A lone half of a character, which JSON can spell, can be neither kept nor sent.
            reply = self._ask(messages).encode("utf-8", "replace").decode()
            try:
                return reply, read_reply(reply, labels, extent)
            except BadReply as error:
                if attempt == self._attempts:
                    raise BadReply(f"no usable reply in {attempt} attempts: {error}") from error
                said = reply[:LONGEST_SENT_BACK]
                messages += [{"role": "assistant", "content": said}, {"role": "user", "content": complaint(error)}]
        raise AssertionError("attempts is at least 1")

    def _fail(self, source: str, error: Exception) -> None:
        """Counts a view without an answer. Raises SgaError when too many come one after the other."""
        with self._lock:
            self.unanswered.add(source)
            self._failed_in_a_row += 1
            count, in_a_row = len(self.unanswered), self._failed_in_a_row
        if in_a_row >= FAILURES_IN_A_ROW:
            raise SgaError(f"detector vlm: {in_a_row} failures in a row, last {source!r}: {error}; {self._kept}")
        say(f"{source!r}: {error} (photo {count} that fails)")

    @property
    def _kept(self) -> str:
        return f"every usable reply is kept in {self._cache.folder}, so the same command goes on from here"

    def _ask(self, messages: Sequence[Message]) -> str:
        with self._lock:
            if self._max_calls and self._calls >= self._max_calls:
                raise SgaError(f"detector vlm: max_calls {self._max_calls} is spent; {self._kept}")
            self._calls += 1
        return self._client.ask(messages)


def _in_pixels(corners: Sequence[float], size: Size) -> list[float]:
    """From shares of a view to its pixels."""
    return [edge * side for edge, side in zip(corners, size * 2, strict=True)]


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


def create(options: Options, photos: Path) -> VlmDetector:
    endpoint, model = options.text("endpoint"), options.text("model")
    key_variable, request = options.text("api_key_env", "OPENAI_API_KEY"), options.table("request")
    timeout, parallel = options.number("timeout", 120, 1), options.whole("parallel", 4)
    labels, max_new_tokens = phrases(options), options.whole("max_new_tokens", 1024)
    coordinates, side = options.choice("coordinates", ("relative", "pixels")), options.whole("side", 1024, 64)
    attempts, max_calls = options.whole("attempts", 3), options.whole("max_calls", 0, 0)
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    cache = Path(options.text("cache", f"{home}/sga_kohya/vlm_replies")).expanduser()
    if endpoint and not endpoint.startswith(("http://", "https://")):
        options.problems.append(f"endpoint = {endpoint!r}: write a URL, such as http://localhost:8000/v1")
    if endpoint and not model:
        options.problems.append("no model: give the name by which the endpoint knows it, model=NAME")
    options.finish()
    client: Client
    if endpoint:
        client = HttpClient(endpoint, model, key_variable, timeout, parallel, request, say)
        announce(client, photos, attempts, max_calls, side, cache)
    else:
        client = LocalClient(model or DEFAULT_MODEL, options.device, max_new_tokens)
    return VlmDetector(client, labels, ReplyCache(cache), side, coordinates == "pixels", attempts, max_calls)


def announce(client: HttpClient, photos: Path, attempts: int, max_calls: int, side: int, cache: Path) -> None:
    """What the run will ask of a server that may cost money, before it does."""
    count = len(find_images(photos, photos / ".", [MANIFEST]).images) if photos.is_dir() else 0
    limit = f"at most {max_calls} calls (max_calls)" if max_calls else "no limit (max_calls)"
    print(
        f"vlm: {count} photos go to {client.url} ({client.model}), one call a region, each a JPEG of at most {side} "
        f"pixels, up to {attempts} calls when replies cannot be used; {limit}; replies already in {cache} are free",
        file=sys.stderr,
    )
