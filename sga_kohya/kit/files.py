"""Files and folders that are whole or not there, and folders with one writer at a time.

Everything is written beside its place under another name, which no trainer reads, and then moved.
"""

import contextlib
import csv
import errno
import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

import filelock

from sga_kohya.errors import SgaError

PART = ".part"
LOCK = ".sga_kohya.lock"
_WINDOWS_LIMIT = 260
_WITHOUT_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)
_PATIENCE = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds between attempts: on Windows a viewer, a scanner or TensorBoard may hold a file open for a moment."""


def part_of(path: Path) -> Path:
    """Where a file or folder is written before it is moved into place."""
    return path.with_name(path.name + PART)


@contextlib.contextmanager
def whole_file(path: Path, keep_suffix: bool = False) -> Iterator[Path]:
    """`with whole_file(path) as part:` write to `part`; on success it becomes `path`, on any error it is removed.

    keep_suffix: for writers that choose the format by the name's end.
    """
    part = path.with_name(f".{path.stem}{PART}{path.suffix}") if keep_suffix else part_of(path)
    try:
        yield part
        move(part, path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # a second error would hide the first
            part.unlink(missing_ok=True)
        if isinstance(error, OSError) and (reason := too_long(part)):
            raise SgaError(f"{path}: {reason}") from None
        raise


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """The same for a folder: `part` is new and empty; what stands at `path` is replaced only by a finished one."""
    part = part_of(path)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        replace_folder(part, path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def replace_folder(part: Path, target: Path) -> None:
    """Put a finished folder in the place of what may be there. A kill in between leaves the old one as NAME.old."""
    old = target.with_name(f"{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        move(target, old)
    move(part, target)
    shutil.rmtree(old, ignore_errors=True)


def move(source: Path, target: Path) -> None:
    """os.replace, with patience where another program holds the target open. Raises OSError when it stays held."""
    for seconds in _PATIENCE:
        try:
            os.replace(source, target)
            return
        except PermissionError:
            time.sleep(seconds)
    os.replace(source, target)


def write_whole(path: Path, content: str | bytes) -> None:
    """A file of bytes, or of text as UTF-8 with the line ends given."""
    with whole_file(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with whole_file(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def sha256(path: Path) -> str:
    """The digest of a file's content, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def too_long(path: PurePath, windows: bool = os.name == "nt") -> str:
    """Why Windows finds no such path and makes none, though all is well with it: a sentence, or ""."""
    length = len(str(path))
    if not windows or length < _WINDOWS_LIMIT:
        return ""
    return (
        f"the path has {length} characters, and Windows takes {_WINDOWS_LIMIT - 1}: use a folder nearer to the drive, "
        "or switch on long paths (LongPathsEnabled)"
    )


def user_path(text: object, what: str, home: bool = True) -> Path:
    """A path as a user writes it, whether it is there or not. Raises SgaError for one that cannot be.

    what: names it in the error. home: `~` is the user's folder. No file system takes a NUL, a name of a thousand
    letters, or the home of nobody.
    """
    path = Path(str(text))
    try:
        path = path.expanduser() if home else path
        path.lstat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        if reason := too_long(path.absolute()):
            raise SgaError(f"{what} {path}: {reason}") from None
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SgaError(f"{what}: this can be no path ({reason}); correct it") from None
    return path


@contextlib.contextmanager
def only_writer(folder: Path, remedy: str) -> Iterator[None]:
    """Hold a folder for this process; it is created where it is missing. The lock of a dead process is no obstacle.

    remedy: what to do when another process holds it, such as "give another output_dir". Raises SgaError then, and
    where there can be no such folder.
    """
    lock = filelock.FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise SgaError(f"another process is writing into {folder}: wait for its end, or {remedy}") from None
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise SgaError(f"{folder} cannot be written ({error.strerror or error}): {remedy}") from None
        print(f"warning: the file system of {folder} has no locks: let nothing else write there meanwhile", flush=True)
    try:
        yield
    finally:
        lock.release()
