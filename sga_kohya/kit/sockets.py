"""Bytes of a peer that may be slow, endless or hostile: read for so long in all and up to so many, never more."""

import io
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class TooLong(OSError):
    """The peer sent more than the limit."""


class BoundedReader(io.RawIOBase):
    """What comes from a connection. A socket's own timeout begins anew with each byte, so a drip would never end.

    seconds: for all of it. most: bytes. Raises TimeoutError, TooLong.
    """

    def __init__(self, connection: socket.socket, seconds: float, most: int) -> None:
        self.connection, self.raw = connection, connection.makefile("rb", buffering=0)
        self.end, self.left = time.monotonic() + seconds, most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int | None:
        seconds = self.end - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("it sends too slowly")
        if self.left <= 0:
            raise TooLong("it sends too much")
        self.connection.settimeout(seconds)
        count = self.raw.readinto(memoryview(buffer)[: self.left])
        self.left -= count or 0
        return count

    def close(self) -> None:
        self.raw.close()
        super().close()
