"""The judge's purse and memory: no request that could exceed the budget, no reply paid for twice or lost.

A reply is on the disk, as it came, before anything is read from it. What may have been charged but did not arrive whole
is kept as well, and counted as estimated.
"""

import hashlib
import json
import os
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from sga_kohya.errors import SgaError
from sga_kohya.evaluate.plan.plan import Judge
from sga_kohya.kit.chat import Chat, ChatRefused, Reply, Service, read_reply
from sga_kohya.kit.files import move, part_of
from sga_kohya.kit.values import is_number

REPLY_TOKENS = 250  # of a ranking in four dimensions, as estimated beforehand
_LOST = ".lost-"
ROOM = 65_536
"""Bytes that are taken on the disk before a question is asked, so that there is room for what is paid for."""


class BudgetSpent(Exception):
    """The next request could exceed the budget."""


class Endpoint:
    """folder: of the replies, one file each, for one process. pause: seconds before the first retry."""

    def __init__(self, judge: Judge, folder: Path, pause: float = 1.0) -> None:
        self.judge, self.folder = judge, folder
        body = {"response_format": {"type": "json_object"}} if judge.json_mode else {}
        key = os.environ.get(judge.api_key_env, "")
        service = Service(judge.url, judge.model, key, judge.api_key_env, judge.timeout, 5, pause, body, "[judge]: url")
        self.chat = Chat(service)
        self.requests, self.lost, self.damaged = 0, 0, 0
        self.spent, self.reserved, self.dearest = 0.0, 0.0, 0.0
        self.lock = threading.Lock()

    def file(self, identity: str, attempt: int = 0) -> Path:
        """Where the reply to the attempt is kept. identity: whatever the messages depend on."""
        content = json.dumps([self.chat.url, self.chat.payload([]), identity, attempt], sort_keys=True)
        return self.folder / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.json"

    def ask(self, identity: str, attempt: int, build: Callable[[], list[dict[str, Any]]]) -> str:
        """The text of the reply, from disk if it was given before. build: makes the messages, called only if not.

        Raises BudgetSpent before a request that could exceed the budget, SgaError when the endpoint refuses, OSError
        when there is no room for a reply.
        """
        path = self.file(identity, attempt)
        if not path.is_file():
            self._ask(path, build())
        return reply_of(read_entry(path)).text

    def _ask(self, path: Path, messages: list[dict[str, Any]]) -> None:
        with self.lock:
            estimate = max(self.estimate(messages), self.dearest)
            if self.spent + self.reserved + estimate > self.judge.budget + 1e-12:
                raise BudgetSpent
            self.reserved += estimate
        try:
            self._make_room(path)
            self.chat.ask(messages, self._keep(path, estimate), self._lose(path, estimate))
            self._count(path)
        except ChatRefused as error:
            hint = "response_format" in str(error)
            raise ChatRefused(f"{error}{' (write json_mode = false: it has no JSON mode)' * hint}") from None
        finally:
            part_of(path).unlink(missing_ok=True)
            with self.lock:
                self.reserved -= estimate

    def _make_room(self, path: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        _write_synced(part_of(path), os.urandom(ROOM))

    def _keep(self, path: Path, estimate: float) -> Callable[[bytes], None]:
        """Stores a body in the room that was taken for it."""
        prices = [self.judge.price_input, self.judge.price_output]

        def keep(body: bytes) -> None:
            entry = {"estimate": estimate, "prices": prices, "body": body.decode("utf-8", "surrogateescape")}
            part = part_of(path)
            with part.open("r+b" if part.exists() else "wb") as file:
                file.write(json.dumps(entry).encode())
                file.truncate()
                file.flush()
                os.fsync(file.fileno())
            move(part, path)

        return keep

    def _lose(self, path: Path, estimate: float) -> Callable[[bytes], None]:
        """Keeps what there is of a reply that cannot be used, and makes room for the next attempt if it is to be."""

        def lose(body: bytes) -> None:
            if not path.is_file():
                self._keep(path, estimate)(body)
            self._count(self._put_aside(path))
            with self.lock:
                if self.spent + self.reserved > self.judge.budget + 1e-12:  # what is reserved holds the next attempt
                    raise BudgetSpent
            self._make_room(path)

        return lose

    def _put_aside(self, path: Path) -> Path:
        """Out of the way of the next attempt. It still counts as spent."""
        aside = path.with_name(f"{path.stem}{_LOST}{secrets.token_hex(4)}.json")
        move(path, aside)
        with self.lock:
            self.lost += 1
        return aside

    def _count(self, path: Path) -> None:
        dollars = self.cost(read_entry(path))
        with self.lock:
            self.requests += 1
            self.spent += dollars
            self.dearest = max(self.dearest, dollars)

    def count_spent(self) -> None:
        """Take what earlier runs cost into account, and clear what a kill left. A damaged file is put aside."""
        for part in self.folder.glob("*.part"):
            part.unlink()
        for path in sorted(self.folder.glob("*.json")):
            dollars = self._cost_of(path)
            self.spent += dollars
            self.dearest = max(self.dearest, dollars)
        self.spent += self._least() * len(list(self.folder.glob("*.damaged")))

    def _cost_of(self, path: Path) -> float:
        try:
            entry = read_entry(path)
        except SgaError:
            self.damaged += 1
            move(path, path.with_suffix(".damaged"))
            return 0.0  # all of these are counted together
        if _LOST not in path.name and not _is_usable(entry):  # a kill came between its arrival and its reading
            self._put_aside(path)
        return self.cost(entry)

    def estimate(self, messages: list[dict[str, Any]]) -> float:
        """Dollars for one request: four characters a token, pictures by OpenAI's tiles, a reply of REPLY_TOKENS."""
        return self._dollars(count_tokens(messages, self.judge.size), REPLY_TOKENS)

    def cost(self, entry: Mapping[str, Any]) -> float:
        """Dollars of a kept reply, by the usage that it states, else by the estimate; never less than nothing."""
        if _is_amount(dollars := entry.get("dollars")):  # as version 0.1 wrote it
            return dollars
        try:
            reply = reply_of(entry)
        except ValueError:
            reply = Reply("")
        estimate = entry.get("estimate")
        if reply.read is None:
            return estimate if _is_amount(estimate) else self._least()
        written = max(REPLY_TOKENS, len(reply.text) // 4) if reply.written is None else reply.written
        prices = entry.get("prices")
        return self._dollars(reply.read, written, prices if _are_prices(prices) else None)

    def _dollars(self, read: int, written: int, prices: Sequence[float] | None = None) -> float:
        dear, dearer = prices or (self.judge.price_input, self.judge.price_output)
        return (read * dear + written * dearer) / 1e6

    def _least(self) -> float:
        """Of a question whose cost is not known: its pictures and a reply."""
        pictures = (self.judge.references + 2) * _picture_tokens(self.judge.size)
        return max(self.dearest, self._dollars(pictures, REPLY_TOKENS))


def read_entry(path: Path) -> dict[str, Any]:
    """A kept reply. Raises SgaError where the file is none."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(entry.get("body", ""), str) or not {"body", "reply"} & entry.keys():
            raise ValueError
    except (ValueError, RecursionError, AttributeError):
        raise SgaError(f"{path} is damaged: remove it, and its question is asked again") from None
    return entry


def _is_usable(entry: Mapping[str, Any]) -> bool:
    try:
        reply_of(entry)
    except ValueError:
        return False
    return True


def reply_of(entry: Mapping[str, Any]) -> Reply:
    """Raises ValueError where it is no chat completion."""
    if "body" in entry:
        return read_reply(entry["body"].encode("utf-8", "surrogateescape"))
    return read_reply(json.dumps(entry["reply"]))


def count_tokens(messages: list[dict[str, Any]], size: int) -> int:
    """size: pixels of a picture's longer side."""
    tokens = 0
    for message in messages:
        parts = message["content"] if isinstance(message["content"], list) else [{"text": message["content"]}]
        for part in parts:
            tokens += len(part["text"]) // 4 if "text" in part else _picture_tokens(size)
    return tokens


def _picture_tokens(size: int) -> int:
    """85, and 170 for each tile of 512 pixels."""
    return 85 + 170 * (-(-size // 512)) ** 2


def _is_amount(value: object) -> TypeGuard[float]:
    return is_number(value) and value >= 0


def _are_prices(value: object) -> TypeGuard[list[float]]:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_amount, value))


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
