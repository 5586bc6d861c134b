"""A client of OpenAI-compatible chat endpoints: raw replies kept on disk, cost bounded, failures retried."""

import hashlib
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sga_kohya.errors import SgaError
from sga_kohya.evaluate.plan.plan import Judge
from sga_kohya.kit.files import write_whole

REPLY_TOKENS = 250  # of a ranking in four dimensions, as estimated beforehand


class BudgetSpent(Exception):
    """The next request could exceed the budget."""


class Endpoint:
    """folder: of the replies, one file each. pause: seconds before the first retry, doubled at each further one."""

    def __init__(self, judge: Judge, folder: Path, pause: float = 1.0) -> None:
        self.judge, self.folder, self.pause = judge, folder, pause
        self.url = f"{judge.url.rstrip('/')}/chat/completions"
        self.key = os.environ.get(judge.api_key_env, "")
        self.requests, self.spent, self.reserved, self.dearest = 0, 0.0, 0.0, 0.0
        self.lock = threading.Lock()

    def payload(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        json_mode = {"response_format": {"type": "json_object"}} if self.judge.json_mode else {}
        return {"model": self.judge.model, "messages": messages, **json_mode}

    def file(self, identity: str, attempt: int = 0) -> Path:
        """Where the reply to the attempt is kept. identity: whatever the messages depend on."""
        content = json.dumps([self.url, self.payload([]), identity, attempt], sort_keys=True)
        return self.folder / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.json"

    def ask(self, identity: str, attempt: int, build: Callable[[], list[dict[str, Any]]]) -> str:
        """The text of the reply, from disk if it was given before. build: makes the messages, called only if not.

        Raises BudgetSpent before a request that could exceed the budget, SgaError when the endpoint refuses.
        """
        path = self.file(identity, attempt)
        if not path.is_file():
            messages = build()
            with self.lock:
                estimate = max(self.estimate(messages), self.dearest)
                if self.spent + self.reserved + estimate > self.judge.budget + 1e-12:
                    raise BudgetSpent
                self.reserved += estimate
            try:
                reply = self._post(self.payload(messages))
            finally:
                with self.lock:
                    self.reserved -= estimate
            dollars = self.cost(reply, messages)
            self._keep(path, {"dollars": dollars, "reply": reply})
            with self.lock:
                self.requests += 1
                self.spent += dollars
                self.dearest = max(self.dearest, dollars)
        return text_of(json.loads(path.read_text(encoding="utf-8"))["reply"])

    def estimate(self, messages: list[dict[str, Any]]) -> float:
        """Dollars for one request: four characters a token, pictures by OpenAI's tiles, a reply of REPLY_TOKENS."""
        return self._dollars(count_tokens(messages, self.judge.size), REPLY_TOKENS)

    def cost(self, reply: dict[str, Any], messages: list[dict[str, Any]]) -> float:
        """Dollars by the usage that the reply states, else by the estimate."""
        usage = reply.get("usage") or {}
        if "prompt_tokens" not in usage:
            return self.estimate(messages)
        return self._dollars(usage["prompt_tokens"], usage.get("completion_tokens", 0))

    def count_spent(self) -> None:
        """Take what earlier runs cost into account."""
        for path in self.folder.glob("*.json"):
            dollars = json.loads(path.read_text(encoding="utf-8"))["dollars"]
            self.spent += dollars
            self.dearest = max(self.dearest, dollars)

    def _dollars(self, read: int, written: int) -> float:
        return (read * self.judge.price_input + written * self.judge.price_output) / 1e6

    def _post(self, payload: dict[str, Any], tries: int = 5) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(self.url, json.dumps(payload).encode(), headers)
        pause = self.pause
        for left in reversed(range(tries)):
            try:
                with urllib.request.urlopen(request, timeout=self.judge.timeout) as response:
                    reply = json.load(response)
                text_of(reply)
                return reply
            except urllib.error.HTTPError as error:
                body = error.read(500).decode(errors="replace").strip()
                problem = f"{error.code} {error.reason}: {body}"
                if error.code not in (408, 409, 425, 429) and error.code < 500:
                    raise SgaError(f"{self.url} refused the request: {problem}{self._hint(error.code, body)}") from None
                pause = max(pause, _seconds(error.headers.get("Retry-After")))
            except (OSError, ValueError, LookupError, TypeError) as error:
                problem = f"{type(error).__name__}: {error}"
            if left:
                time.sleep(pause)
                pause *= 2
        raise SgaError(f"{self.url} failed {tries} times, last with {problem}; run it again, answers so far are kept")

    def _hint(self, code: int, body: str) -> str:
        if code == 401 and not self.key:
            return f" (the environment variable {self.judge.api_key_env} is not set)"
        return " (write json_mode = false if the endpoint has no JSON mode)" if "response_format" in body else ""

    def _keep(self, path: Path, content: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(content, indent=1))


def text_of(reply: dict[str, Any]) -> str:
    """The reply's words; an empty text where the model refused. Raises when it is no chat completion."""
    content = reply["choices"][0]["message"]["content"]
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""


def count_tokens(messages: list[dict[str, Any]], size: int) -> int:
    """size: pixels of a picture's longer side. A picture counts 85 and 170 for each tile of 512 pixels."""
    tokens = 0
    for message in messages:
        parts = message["content"] if isinstance(message["content"], list) else [{"text": message["content"]}]
        for part in parts:
            tokens += len(part["text"]) // 4 if "text" in part else 85 + 170 * (-(-size // 512)) ** 2
    return tokens


def _seconds(header: str | None) -> float:
    try:
        return min(60.0, float(header or 0))
    except ValueError:
        return 0.0
