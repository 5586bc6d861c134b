"""A client of OpenAI-compatible chat endpoints: one question, one reply, whatever the server or the network does.

A question ends in a Reply, in ChatRefused (the user can correct it: a wrong key, model or address), or in
ChatUnavailable (worth another run later). Everything is bounded: bytes, seconds of an attempt, attempts and the pauses
between them. The key goes to the endpoint that was named and nowhere else: redirects are not followed.
"""

import base64
import http.client
import io
import json
import math
import ssl
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sga_kohya.errors import SgaError
from sga_kohya.kit.sockets import BoundedReader
from sga_kohya.kit.values import is_number

LARGEST_REPLY = 4 << 20  # bytes, headers included
LONGEST_PAUSE = 60.0
"""Seconds between two attempts, whatever Retry-After asks for."""
_BUSY = (408, 409, 425, 429)  # and all from 500: worth another attempt

Message = Mapping[str, Any]


class ChatRefused(SgaError):
    """The endpoint will not answer such a request, however often: the user has to correct something.

    status: of HTTP, 0 where nothing was sent.
    """

    status = 0


class ChatUnavailable(SgaError):
    """The endpoint did not answer in any of the attempts."""


@dataclass(frozen=True)
class Service:
    """url: of the endpoint, up to and with /v1. key: empty for none. key_name: the environment variable it is from.

    timeout: seconds of one attempt. tries: attempts. pause: seconds before the second, doubled at each further one.
    body: added to every request, such as {"temperature": 0, "max_tokens": 500}. setting: the url's name in errors.
    """

    url: str
    model: str
    key: str = ""
    key_name: str = ""
    timeout: float = 120.0
    tries: int = 5
    pause: float = 1.0
    body: Mapping[str, Any] = field(default_factory=dict)
    setting: str = "url"


@dataclass(frozen=True)
class Reply:
    """text: empty where the model said nothing. read, written: tokens, None where the server states no sensible one."""

    text: str
    read: int | None = None
    written: int | None = None


class Chat:
    """Asks one Service. Safe for several threads."""

    def __init__(self, service: Service) -> None:
        """Raises ChatRefused for an address or a key that cannot be sent."""
        self.service, self.url = service, f"{service.url.rstrip('/')}/chat/completions"
        self.key = service.key.strip()
        self.ended = threading.Event()
        _refuse_address(self.url, service.setting)
        if not (self.key.isascii() and self.key.isprintable()):
            raise ChatRefused(f"{service.key_name or 'the key'} holds characters that no key has: set it anew")
        self._open = urllib.request.build_opener(_Plain(), _Secure(), _NoRedirect()).open

    @property
    def is_private(self) -> bool:
        """Whether no one on the way can read it: encrypted, or on this machine."""
        parts = urllib.parse.urlsplit(self.url)
        return parts.scheme == "https" or parts.hostname in ("localhost", "127.0.0.1", "::1")

    def payload(self, messages: Sequence[Message]) -> dict[str, Any]:
        return {"model": self.service.model, "messages": list(messages), **self.service.body}

    def ask(
        self,
        messages: Sequence[Message],
        arrived: Callable[[bytes], None] = lambda body: None,
        lost: Callable[[bytes], None] = lambda body: None,
        waiting: Callable[[float, str], None] = lambda seconds, problem: None,
    ) -> Reply:
        """The reply to the messages.

        arrived: gets the body of a reply before anything else is done with it, to keep what was paid for. lost: gets
        what there is of a reply that cannot be used but may have been charged, also after `arrived`. waiting: gets the
        seconds until the next attempt, and why there has to be one.
        Raises ChatRefused, ChatUnavailable.
        """
        pause = self.service.pause
        for left in reversed(range(self.service.tries)):
            try:
                return self._attempt(messages, arrived)
            except _Again as again:
                problem, pause = again, max(pause, again.pause)
                if again.charged:
                    lost(again.body)
            pause = min(pause, LONGEST_PAUSE)
            if left and not self.ended.is_set():
                waiting(pause, self._shown(problem))
            if not left or self.ended.wait(pause):
                break
            pause *= 2
        raise ChatUnavailable(
            f"{self.url} failed {self.service.tries - left} times, last with {self._shown(problem)}; run it again, "
            "answers so far are kept"
        )

    def end(self) -> None:
        """No further attempts: who still waits for one gets ChatUnavailable."""
        self.ended.set()

    def _attempt(self, messages: Sequence[Message], arrived: Callable[[bytes], None]) -> Reply:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        content = json.dumps(self.payload(messages)).encode()
        body = self._post(urllib.request.Request(self.url, content, headers))
        arrived(body)
        try:
            return read_reply(body)
        except ValueError as error:
            raise _Again(f"a reply that is no chat completion ({error})", body, charged=not _is_error(body)) from None

    def _post(self, request: urllib.request.Request) -> bytes:
        """The whole body of a reply of status 2xx."""
        pieces: list[bytes] = []
        try:
            with self._open(request, timeout=self.service.timeout) as response:
                while piece := response.read(65_536):
                    pieces.append(piece)
                if response.length:
                    raise http.client.IncompleteRead(b"", response.length)
                return b"".join(pieces)
        except urllib.error.HTTPError as error:
            with error:
                raise self._of_status(error) from None
        except urllib.error.URLError as error:  # it was not sent whole
            raise _Again(f"{error.reason}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            # Whoever took the request and hung up may have answered it; what does not speak HTTP has not.
            charged = isinstance(error, (OSError, http.client.IncompleteRead))
            raise _Again(f"{type(error).__name__}: {error}", b"".join(pieces), charged) from None

    def _of_status(self, error: urllib.error.HTTPError) -> Exception:
        body = _beginning(error)
        problem = f"{error.code} {error.reason}: {body}"
        if error.code in _BUSY or error.code >= 500:
            return _Again(problem, pause=_seconds(error.headers.get("Retry-After")))
        refused = ChatRefused(self._refusal(error, problem))
        refused.status = error.code
        return refused

    def _refusal(self, error: urllib.error.HTTPError, problem: str) -> str:
        if 300 <= error.code < 400:
            place = error.headers.get("Location", "")
            return (
                f"{self.url} redirects to {self._shown(place)}: it was not followed and got no key; write that address "
                f"as {self.service.setting} if you trust it"
            )
        unset = error.code == 401 and not self.key and self.service.key_name
        hint = f" (the environment variable {self.service.key_name} is not set)" if unset else ""
        return f"{self.url} refused the request: {self._shown(problem)}{hint}"

    def _shown(self, text: object) -> str:
        """What a server said, in one line that moves no cursor and does not repeat the key."""
        line = " ".join(str(text).split())
        line = "".join(letter if letter.isprintable() else "?" for letter in line)
        return (line.replace(self.key, "(the key)") if self.key else line)[:600]


class _Again(Exception):
    """Worth another attempt. pause: seconds that the server asks for. charged: the model may have answered."""

    def __init__(self, problem: str, body: bytes = b"", charged: bool = False, pause: float = 0.0) -> None:
        super().__init__(problem)
        self.body, self.charged, self.pause = body, charged, pause


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def picture_part(content: bytes, kind: str = "png") -> dict[str, Any]:
    """A picture inside a message. content: of a file. kind: png, jpeg or webp."""
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{base64.b64encode(content).decode()}"}}


def read_reply(body: bytes | str) -> Reply:
    """Raises ValueError, in few words, where it is no chat completion."""
    try:
        found = json.loads(body)
    except RecursionError:
        raise ValueError("nested too deep") from None
    try:
        content = found["choices"][0]["message"].get("content")
    except (LookupError, TypeError, AttributeError):
        raise ValueError("it has no choices[0].message") from None
    usage = found.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Reply(_text(content), _tokens(usage.get("prompt_tokens")), _tokens(usage.get("completion_tokens")))


def _text(content: object) -> str:
    if isinstance(content, list):
        return "".join(_text(part.get("text")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _tokens(value: object) -> int | None:
    """A count that can be one: servers have stated null, NaN and negative ones."""
    return math.ceil(value) if is_number(value) and 0 <= value < 1e9 else None


def _is_error(body: bytes) -> bool:
    """Whether a server that says 200 reports an error of its own, without usage: nothing was generated."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and bool(found.get("error")) and not found.get("usage")


def _refuse_address(url: str, setting: str) -> None:
    try:
        parts = urllib.parse.urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or not url.isascii() or any(letter <= " " for letter in url) or "@" in parts.netloc or parts.query:
        raise ChatRefused(
            f"{setting} = {url.removesuffix('/chat/completions')!r}: write it as https://api.openai.com/v1"
        )


def _beginning(error: urllib.error.HTTPError) -> str:
    try:
        return error.read(500).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException, ValueError):
        return ""


def _seconds(header: str | None) -> float:
    """What Retry-After asks for, up to LONGEST_PAUSE; 0 where it is a date or nothing sensible."""
    try:
        seconds = float(header or 0)
    except ValueError:
        return 0.0
    return min(LONGEST_PAUSE, seconds) if seconds > 0 else 0.0


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp.close()
        self.fp = io.BufferedReader(BoundedReader(sock, sock.gettimeout() or 600.0, LARGEST_REPLY))


class _HttpConnection(http.client.HTTPConnection):
    response_class = _Response


class _HttpsConnection(http.client.HTTPSConnection):
    response_class = _Response


class _Plain(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_HttpConnection, request)


class _Secure(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_HttpsConnection, request, context=ssl.create_default_context())


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib would send the key along, to whatever host."""

    def http_error_302(self, *_: Any, **__: Any) -> None:
        """Leaves the reply to what handles errors, before its Location is read, which may be no address."""

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302
