"""The review page over HTTP, on this machine alone.

Everything lies below an address that cannot be guessed, so that another user of the machine reads nothing; kit/one_page
keeps other sites out. No part of an address is ever used as a path.
"""

import contextlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from sga_kohya.hsd.review.desk import Desk
from sga_kohya.hsd.review.sources import FOLDER
from sga_kohya.kit.files import write_whole
from sga_kohya.kit.one_page import FOREVER, OneRequest, Refused, Reply, Site

TOKEN = "token"


class Handler(OneRequest):
    server: "Server"

    def get(self, path: str) -> Reply:
        file = unquote(self._below(path))
        if not file:
            desk = self.server.desk
            about = {"levels": desk.album.levels, "command": self.server.command, "photos": bool(desk.photos)}
            return Reply.page("sga_kohya.hsd", "review/page.html", about=about, out=str(desk.out))
        content = self._picture(file)
        if content is None:
            raise Refused(404, "There is no such picture.")
        return Reply("image/jpeg", content, cache=FOREVER)

    def _picture(self, file: str) -> bytes | None:
        """One of the report's, or large/ROOT."""
        desk = self.server.desk
        if file in desk.album.files:
            with contextlib.suppress(OSError):
                return (desk.out / file).read_bytes()
        picture = desk.album.pictures.get(file.removeprefix("large/")) if file.startswith("large/") else None
        return desk.large.of(picture.first.source, picture.sha256) if picture else None

    def post(self, path: str, request: Mapping[str, Any]) -> Reply:
        return Reply.json(self.server.desk.answer(self._below(path), request))

    def _below(self, path: str) -> str:
        """What is asked for below the address that only the command has told."""
        _, token, *rest = [*path.split("/", 2), ""]
        if not secrets.compare_digest(token.encode(), self.server.token.encode()):
            raise Refused(403, "Open this page by the address that the command printed.")
        return rest[0]


class Server(Site):
    """command: what cuts the photos again, for the page to show."""

    def __init__(self, desk: Desk, command: str, port: int = 0) -> None:
        super().__init__(Handler, "127.0.0.1", port)
        self.desk, self.command, self.token = desk, command, token_of(desk.out)
        self.url += f"{self.token}/"


def token_of(out: Path) -> str:
    """The same after a restart, so that a page that is open goes on; no one else may read it."""
    file = out / FOLDER / TOKEN
    with contextlib.suppress(OSError):
        if len(kept := file.read_text(encoding="utf-8")) > 20:
            return kept
    file.parent.mkdir(exist_ok=True)
    token = secrets.token_urlsafe(24)
    write_whole(file, token)
    os.chmod(file, 0o600)
    return token
