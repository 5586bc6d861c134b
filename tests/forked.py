"""Python processes that begin with their slow imports done: forks of one server, which has imported nothing of ours.

`[*python(), "-m", "sga_kohya.launch", …]` is started instead of `[sys.executable, …]`: a small process that stands for
the fork, with its folder, environment and streams, its signals and its exit status. Words are those that Python knows:
a file, -m MODULE or -c CODE, and what follows.

    python tests/forked.py SOCKET            the server, which ends when its stdin does
    python tests/forked.py SOCKET WORDS…     the small process
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# Of PyPI: all that a test's process may need and that takes its time.
IMPORTS = (
    *("torch", "torch.utils.tensorboard", "torchvision", "scipy.stats", "scipy.ndimage", "cv2"),
    *("accelerate", "diffusers", "diffusers.pipelines", "lycoris.kohya", "rich.logging", "voluptuous"),
    *("transformers.models.clip.modeling_clip", "transformers.models.t5.modeling_t5", "transformers.optimization"),
    *("transformers.models.gemma2.modeling_gemma2", "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl"),
    *("transformers.models.qwen3.modeling_qwen3", "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion"),
)
STREAMS = 0, 1, 2
ENVIRONMENT = {
    **os.environ,
    **{"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # else asking whether there is a card breaks it for forks
}
"""Of a server: that of the test process when it began, and what imports read once and for all."""


def python(*folders: str) -> tuple[str, ...]:
    """What a command begins with. folders: of packages that go before the installed ones, which the command's own
    PYTHONPATH has to name as well."""
    return _command(_server(folders, 0)) if hasattr(os, "fork") else (sys.executable,)


def ranks(*folders: str) -> tuple[str, ...]:
    """As `python`, of torchrun's processes: odd and even ranks hash strings otherwise, as they do without forks."""
    servers = [_server(folders, number) for number in (0, 1)] if hasattr(os, "fork") else []
    return _command(os.pathsep.join(servers)) if servers else (sys.executable,)


def _command(addresses: str) -> tuple[str, ...]:
    return sys.executable, "-I", "-S", __file__, addresses


@functools.cache
def _server(folders: tuple[str, ...], number: int) -> str:
    """The socket of one for this test process, started by the first call."""
    folder = tempfile.TemporaryDirectory()
    address = str(Path(folder.name) / "socket")
    path = os.pathsep.join(filter(None, (*folders, ENVIRONMENT.get("PYTHONPATH"))))
    environment = {**ENVIRONMENT, **({"PYTHONPATH": path} if path else {})}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    server = subprocess.Popen([sys.executable, __file__, address], env=environment, **pipes)
    assert server.stdin is not None and server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    atexit.register(folder.cleanup)
    atexit.register(server.wait)
    atexit.register(server.stdin.close)  # the last is called first
    return address


def stand_for(addresses: list[str], words: list[str]) -> int:
    """The small process: ends as the fork does, and hands signals on. Who kills it kills the fork."""
    address = addresses[int(os.environ.get("RANK", 0)) % len(addresses)]
    request = json.dumps({"words": words, "folder": os.getcwd(), "environment": dict(os.environ)}).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [len(request).to_bytes(8, "big")], STREAMS)
        connection.sendall(request)
        child = int.from_bytes(connection.recv(8), "big")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, _: os.kill(child, number))
        code = os.waitstatus_to_exitcode(int.from_bytes(connection.recv(8), "big"))
    if code < 0:
        with suppress(OSError):  # SIGKILL has no other handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def serve(address: str) -> dict:
    """Returns only in a fork: what was asked of it."""
    for name in IMPORTS:
        importlib.import_module(name)
    assert "sga_kohya" not in sys.modules
    # What forks import is compiled once for all of them, and lies in nobody's folder.
    sys.dont_write_bytecode, sys.pycache_prefix = False, str(Path(address).with_name("pycache"))
    gc.collect()
    gc.freeze()  # a fork need not look through all this for garbage, nor copy it
    forks: dict[int, socket.socket] = {}
    with socket.socket(socket.AF_UNIX) as listener, ended() as ends:
        listener.bind(address)
        listener.listen()
        os.write(1, b"ready\n")
        while True:
            ready, _, _ = select.select([0, listener, ends, *forks.values()], [], [])
            if 0 in ready:
                os._exit(0)
            for child in [child for child, connection in forks.items() if connection in ready]:
                os.kill(child, signal.SIGKILL)  # what stood for it is gone
            if ends in ready:
                ends.recv(1 << 10)
                answer(forks)
            if listener in ready:
                connection, _ = listener.accept()
                request, files = asked_by(connection)
                if request is None:
                    connection.close()
                    continue
                child = os.fork()
                forks[child] = connection
                if not child:
                    for other in forks.values():
                        other.close()
                    for file, stream in zip(files, STREAMS, strict=True):
                        os.dup2(file, stream)
                for file in files:
                    os.close(file)
                if not child:
                    return request
                with suppress(OSError):
                    connection.sendall(child.to_bytes(8, "big"))


@contextlib.contextmanager
def ended() -> Iterator[socket.socket]:
    """Can be read from whenever a fork has ended."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(theirs.fileno())
    with ours, theirs:
        yield ours
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def answer(forks: dict[int, socket.socket]) -> None:
    """Tell those that stand for forks how they have ended."""
    while forks:
        child, status = os.waitpid(-1, os.WNOHANG)
        if not child:
            return
        with forks.pop(child) as connection, suppress(OSError):
            connection.sendall(status.to_bytes(8, "big"))


def asked_by(connection: socket.socket) -> tuple[dict | None, list[int]]:
    """A request, None of one who has gone, and the files of its streams."""
    head, files, *_ = socket.recv_fds(connection, 8, len(STREAMS))
    request = b""
    while len(request) < int.from_bytes(head, "big"):
        part = connection.recv(1 << 16)
        if not part:
            break
        request += part
    whole = files and len(request) == int.from_bytes(head, "big")
    return json.loads(request) if whole else None, files


def begin(folder: str, environment: dict[str, str]) -> None:
    """As if Python had been started there and with these variables."""
    os.setsid()
    os.chdir(folder)
    sys.modules["numpy"].random.seed()  # which alone would draw in each fork what it draws in all others
    before = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ.clear()
    os.environ.update(environment)
    after = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.path[:] = [*after, *(entry for entry in sys.path[1:] if entry not in before)]
    encoding, _, errors = environment.get("PYTHONIOENCODING", "").partition(":")
    at_once = bool(environment.get("PYTHONUNBUFFERED"))
    for number, name in zip(STREAMS, ("stdin", "stdout", "stderr"), strict=True):
        server = getattr(sys, name)
        usual = "strict" if encoding and number != 2 else server.errors
        how = {"encoding": encoding or server.encoding, "errors": errors or usual}
        stream = open(number, "w" if number else "r", **how)  # noqa: SIM115  it stays open
        stream.reconfigure(line_buffering=number == 2, write_through=number > 0 and at_once)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def run(kind: str, *words: str) -> None:
    """A file, -m and a module, or -c and code."""
    if kind == "-m":
        sys.argv, sys.path[:0] = list(words), [os.getcwd()]
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv, sys.path[:0] = ["-c", *words[1:]], [""]
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(words[0], "<string>", "exec"), vars(sys.modules["__main__"]))
    else:
        sys.argv, sys.path[:0] = [kind, *words], [os.path.dirname(os.path.realpath(kind))]
        runpy.run_path(kind, run_name="__main__")


def end(error: BaseException | None) -> None:
    """As Python ends, but for taking every imported module to pieces, which takes half a second."""
    code = error.code if isinstance(error, SystemExit) else 0 if error is None else 1
    if error is not None and not isinstance(error, SystemExit):
        sys.excepthook(type(error), error, error.__traceback__)
    if isinstance(code, str):
        print(code, file=sys.stderr)
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    if isinstance(error, KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(1 if isinstance(code, str) else code or 0)


if __name__ == "__main__":
    if sys.argv[2:]:
        sys.exit(stand_for(sys.argv[1].split(os.pathsep), sys.argv[2:]))
    asked = serve(sys.argv[1])
    begin(asked["folder"], asked["environment"])
    raised = None
    try:
        run(*asked["words"])
    except BaseException as error:
        raised = error
    end(raised)
