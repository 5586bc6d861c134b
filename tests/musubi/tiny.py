"""Runs of the real musubi-tuner on CPU with models of a few hundred thousand parameters, many from one process.

    python tests/musubi/tiny.py SRC JOBS.json     the jobs in JOBS.json, one after another
    python tests/musubi/tiny.py SRC --serve       for each line on stdin, {"jobs", "log", "folder"}, a fork does them

SRC: the folder to import musubi_tuner from. Its imports take longer than a run, therefore the forks and the jobs. A job
is one of
    {"write": FOLDER, "stack": NAME, "groups", "sizes", "clips"}                     a tiny model and its dataset
    {"door": "stock" | "sga", "script", "stack", "args": {…}, "record", "status"}    a run
    {"command": ["python", "-m" MODULE | SCRIPT, …], "stack": NAME}                  what one would type in its folder
    {"check": NAME, "out": FILE, …}                                                  a function of checks.py
What is recorded: see tests/host/run.py; a batch has `ids`, the number that a stack wrote into each sample's latents.
"""

import importlib
import json
import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parents[2]


def words(options: dict[str, Any]) -> list[str]:
    given = {key: value for key, value in options.items() if value not in (None, False)}
    return [
        word
        for key, value in given.items()
        for word in (f"--{key}", *([] if value is True else map(str, value if isinstance(value, list) else [value])))
    ]


def describe(batch: dict[str, Any]) -> dict[str, Any]:
    latents = batch["latents"]
    return {"ids": [round(x) for x in latents.flatten(1)[:, 0].tolist()], "shape": tuple(latents.shape)}


def prepare(source: Path) -> None:
    # The host first, and then the tree that these tests belong to: another one may be installed.
    sys.path[:] = [str(source), str(ROOT), *sys.path[1:]]
    from tests.host import run as recording

    os.environ.update(recording.OFFLINE)
    import torch

    torch.set_num_threads(1)
    torch.cuda.current_device = lambda: 0  # some families ask for it while they are imported
    recording.describe = describe
    importlib.import_module("musubi_tuner.hv_train_network")
    importlib.import_module("lycoris.kohya")


def do(jobs: list[dict[str, Any]], source: Path) -> None:
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer

    from tests.musubi.stacks import STACKS, Clips

    stock = Accelerator.__init__, AcceleratedOptimizer.step
    for job in jobs:
        if "check" in job:
            further = {name: value for name, value in job.items() if name not in ("check", "out")}
            getattr(importlib.import_module("tests.musubi.checks"), job["check"])(Path(job["out"]), **further)
            continue
        stack = STACKS[job["stack"]]
        stack.shrink()
        if "command" in job:
            os.chdir(source.parent)
            command(job["command"])
        elif "write" in job:
            clips = {level: Clips(**sizes) for level, sizes in job.get("clips", {}).items()}
            stack.write(Path(job["write"]), job["groups"], [tuple(size) for size in job["sizes"]], clips)
        else:
            Accelerator.__init__, AcceleratedOptimizer.step = stock
            run(job, source)


def run(job: dict[str, Any], source: Path) -> None:
    import torch
    from accelerate.state import AcceleratorState, GradientState, PartialState

    from tests.host.run import Recorder

    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    recorder = Recorder()
    if job.get("record"):
        recorder.install()
    print(f"== {job['door']} {job['args'].get('output_dir')}", flush=True)
    expected = job.get("status", 0)
    status = train(job["door"], job["script"], job["args"], source)
    if status != expected:
        raise RuntimeError(f"exit status {status} instead of {expected}")
    if job.get("record"):
        torch.save(recorder.events, f"{job['record']}.rank{os.environ.get('RANK', 0)}.pt")


def train(door: str, script: str, args: dict[str, Any], source: Path) -> int:
    try:
        if door == "stock":
            sys.argv = [f"{script}.py", *words(args)]
            importlib.import_module(f"musubi_tuner.{script}").main()
            return 0
        from sga_kohya.hosts.musubi.run import main as ours

        ours([script, "--musubi_tuner", str(source.parent), *words(args)])
        return 0
    except SystemExit as end:
        return int(end.code or 0)


def command(argv: list[str]) -> None:
    """Run it in this process, where the host is shrunken."""
    print("==", *argv, flush=True)
    rest = argv[1:] if argv[0] == "python" else argv[2:]  # accelerate launch
    try:
        if rest[0] == "-m":
            sys.argv = rest[1:]
            runpy.run_module(rest[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = rest
            runpy.run_path(rest[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"exit status {end.code}") from end


def serve(source: Path, answers: TextIO) -> None:
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            os.setsid()
            signal.alarm(request["seconds"])
            log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.chdir(request["folder"])
            code = 1
            try:
                do(json.loads(Path(request["jobs"]).read_text()), source)
                code = 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)


def main() -> None:
    source = Path(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    if sys.argv[2] == "--serve":
        os.dup2(2, 1)  # what the host prints is no answer
    prepare(source)
    if sys.argv[2] == "--serve":
        serve(source, answers)
    else:
        do(json.loads(Path(sys.argv[2]).read_text()), source)


if __name__ == "__main__":
    main()
