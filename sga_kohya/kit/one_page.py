"""A web server for one page and its questions, on http.server: one request a connection, and nothing that is unclear.

What keeps other sites out, in the order in which a request meets it:
- A connection carries one request and is closed. What a refused one left unread can never be taken for a second.
- A request that two readers could read in two ways (no or several Host, a Content-Length twice, Transfer-Encoding, a
  target with a host in it, HTTP/0.9, a folded or broken header) is refused, whatever it asks.
- Host must be a name of this server: another site's name that resolves to this machine (DNS rebinding) is none.
- A POST must name its Origin, which must be this page, and be JSON, which no other site can send without asking.
- Time and size of a request, and the number of connections, are bounded.
"""

import contextlib
import ipaddress
import json
import os
import re
import secrets
import socket
import socketserver
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler
from io import BufferedReader
from typing import Any

from sga_kohya.errors import SgaError
from sga_kohya.kit.page import render
from sga_kohya.kit.sockets import BoundedReader, TooLong

LOOPBACK = ("127.0.0.1", "localhost", "::1")
LARGEST_BODY = 16_384  # bytes
LARGEST_REQUEST = LARGEST_BODY + 32_768
MOST_CONNECTIONS = 256
PATIENCE = 20.0  # seconds for a whole request, and for a reply to be taken
ONCE = ("Host", "Content-Length", "Content-Type", "Origin", "X-Session")
NEVER, FOREVER = "no-store", "private, max-age=31536000, immutable"
CLOSED = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin"}
CLOSED |= {"Cross-Origin-Resource-Policy": "same-origin", "Connection": "close"}


class Refused(Exception):
    """An HTTP status and a sentence for the page."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Reply:
    """kind: the content's type. policy: what it may load, by default nothing. cache: how long it may be kept."""

    kind: str
    body: bytes
    policy: str = "default-src 'none'"
    status: int = 200
    cache: str = NEVER

    @classmethod
    def page(cls, package: str, template: str, **values: object) -> "Reply":
        """A template of kit/page whose own script and style may run, by their nonce, and nothing else."""
        nonce = secrets.token_urlsafe(16)
        policy = f"default-src 'none'; img-src 'self' data:; connect-src 'self'; script-src 'nonce-{nonce}'; "
        policy += f"style-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        return cls("text/html; charset=utf-8", render(package, template, nonce=nonce, **values).encode(), policy)

    @classmethod
    def json(cls, content: Mapping[str, Any], status: int = 200) -> "Reply":
        return cls("application/json", json.dumps(content).encode(), status=status)


class OneRequest(BaseHTTPRequestHandler):
    """Subclasses answer `get(path)` and `post(path, request)` with a Reply, or raise Refused."""

    server: "Site"
    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.1"  # what a line without a version is answered in; it is refused
    server_version, sys_version = "sga", ""

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile = BufferedReader(BoundedReader(self.connection, self.server.patience, LARGEST_REQUEST))
        self.all_read = False

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):  # whoever asked is gone
            if reply := self._reply():
                self._send(reply)
                self._let_it_be_read()

    def _reply(self) -> Reply | None:
        """None where nothing was asked, and where parse_request has refused it by itself."""
        try:
            self.raw_requestline = self.rfile.readline(8192)
            if not self.raw_requestline or not self.parse_request():
                return None
            return self._answer()
        except Refused as refused:
            return Reply.json({"error": str(refused)}, refused.status)
        except TimeoutError:
            return Reply.json({"error": "The request came too slowly."}, 408)
        except TooLong:
            return Reply.json({"error": "The request is too long."}, 413)

    def _answer(self) -> Reply:
        path = target(self.requestline, self.headers)
        if not self.server.knows(self.headers["Host"]):
            raise Refused(403, "Open this page by the address that the command printed.")
        if self.command == "POST":
            refuse_other_sites(self.headers)
        body = self._body()
        self.all_read = True
        if self.command == "GET" and not body:
            return self.get(path)
        if self.command == "POST":
            return self.post(path, parsed(body))
        raise Refused(405, "Only GET without content, and POST.")

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "0")
        if not re.fullmatch("[0-9]{1,9}", length) or int(length) > LARGEST_BODY:
            raise Refused(413, f"Send at most {LARGEST_BODY} bytes.")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise Refused(400, "The request ended early.")
        return body

    def get(self, path: str) -> Reply:
        raise NotImplementedError

    def post(self, path: str, request: Mapping[str, Any]) -> Reply:
        raise NotImplementedError

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """How http.server refuses what it cannot parse: in our form, without a word of the request."""
        self._send(Reply.json({"error": "This is no request that the page makes."}, code))
        self._let_it_be_read()

    def _send(self, reply: Reply) -> None:
        self.connection.settimeout(self.server.patience)
        self.request_version = self.protocol_version  # a reply without headers would be guessed at
        self.send_response(reply.status)
        own = {"Content-Type": reply.kind, "Content-Length": str(len(reply.body)), "Cache-Control": reply.cache}
        for name, value in {**own, "Content-Security-Policy": reply.policy, **CLOSED}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)

    def _let_it_be_read(self) -> None:
        """A socket that is closed with something unread resets the connection, and the reply may never be seen."""
        if self.all_read:
            return
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            rest = BoundedReader(self.connection, min(2.0, self.server.patience), 1 << 20)
            while rest.read(65_536):
                pass

    def log_message(self, *_: object) -> None:
        """The log of requests would hold picture addresses and nothing of use."""


def target(line: str, headers: Message) -> str:
    """The path that a request asks for. Raises Refused where anything about it could be read in two ways."""
    words = line.split(" ")
    if len(words) != 3 or words[2] not in ("HTTP/1.0", "HTTP/1.1"):
        raise Refused(400, "Only HTTP/1.0 and 1.1.")
    if not words[1].startswith("/"):
        raise Refused(400, "Only a path.")
    if headers.defects or any("\r" in value or "\n" in value for value in headers.values()):
        raise Refused(400, "A header is broken.")
    if twice := [name for name in ONCE if len(headers.get_all(name, [])) > 1]:
        raise Refused(400, f"{twice[0]} is there twice.")
    if "Transfer-Encoding" in headers:
        raise Refused(400, "Send Content-Length.")
    if "Host" not in headers:
        raise Refused(400, "Host is missing.")
    return words[1].partition("?")[0]


def refuse_other_sites(headers: Message) -> None:
    """Browsers send the Origin of every POST; a page that hides its own ("null") is another site."""
    scheme, _, name = headers.get("Origin", "").partition("://")
    if scheme not in ("http", "https") or name != headers["Host"]:
        raise Refused(403, "Another site may not answer.")
    if headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "Send JSON.")


def parsed(body: bytes) -> dict[str, Any]:
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "Send JSON.") from None
    if not isinstance(request, dict):
        raise Refused(400, "Send a JSON object.")
    return request


class Site(socketserver.ThreadingTCPServer):
    """names: further Host headers, with or without the port. patience: seconds for a request."""

    daemon_threads = True
    request_queue_size = 64
    # On Windows this would let a second program listen on the same port.
    allow_reuse_address = os.name == "posix"
    patience = PATIENCE

    def __init__(self, handler: type[OneRequest], host: str, port: int, names: Sequence[str] = ()) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), handler)
        except (OSError, OverflowError, UnicodeError) as error:
            raise SgaError(f"--host {host} --port {port}: {error}; use another port, 0 for any") from None
        self.port, self.everyone = self.server_address[1], host not in LOOPBACK
        self.places = threading.BoundedSemaphore(MOST_CONNECTIONS)
        own = {*LOOPBACK, host, *names}
        if self.everyone:
            own |= {socket.gethostname(), f"{socket.gethostname()}.local"}
        self.hosts = {form for name in own for form in self._forms(name)} | {name.lower() for name in names}
        shown = socket.gethostname() if host in ("", "0.0.0.0", "::") else host
        self.url = f"http://{_bracketed(shown)}:{self.port}/"

    def _forms(self, name: str) -> list[str]:
        name = _bracketed(name.lower())
        return [f"{name}:{self.port}", *([name] if self.port == 80 else [])]

    def knows(self, host: str) -> bool:
        """Whether it is one of our names. An address in digits is no one's name, so it cannot be made to point here."""
        host = host.lower()
        if host in self.hosts:
            return True
        address = host.removesuffix(f":{self.port}")
        return self.everyone and (address != host or self.port == 80) and _is_address(address)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self.places.acquire(blocking=False):
            return self.shutdown_request(request)
        try:
            super().process_request(request, client_address)
        except BaseException:
            self.places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.places.release()


def _bracketed(name: str) -> str:
    return f"[{name}]" if ":" in name and not name.startswith("[") and _is_address(name) else name


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
