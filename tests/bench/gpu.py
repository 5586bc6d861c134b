"""What SGA costs on this card beside stock sd-scripts, at the sizes people train; and how good the memory estimate is.

    python tests/bench/gpu.py [--sizes flux,sdxl] [--minutes 7.5]

The real training scripts run on random weights of the real shapes that are made on the spot: FLUX.1 (12 B parameters,
or as many of its blocks as fit into free memory and the time, which is said) and SDXL's U-Net, in bfloat16, with a LoRA
of rank 16, gradient checkpointing and cached latents, at batches 1, 4 and 8 of 1024 x 1024. Text encoders and
autoencoder are stand-ins, as their outputs are cached. Arms: stock; ours switched off; ours with tuples of K = 3; the
same with the interference probe at every step. All make equal passes and equal optimizer steps: without tuples,
gradients are accumulated over three batches.

A row is the time of a pass (median of steps, without the first) and the highest memory of torch, both over stock's in
the same round, with Student's interval over rounds. Rounds run every arm in turn, and every other round backwards, for
as long as the minutes last. Sizes share the minutes; what found no room is said. On a card, the pace of a
whole model with tuples is noted where training notes its own (sga_kohya/training/paces.py), for plans of later runs.

`--sizes cpu` is a toy on the processor, for the test of this file.
"""

import argparse
import collections
import contextlib
import dataclasses
import functools
import gc
import itertools
import json
import os
import runpy
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch

from sga_kohya.kit.intervals import student
from sga_kohya.training.paces import Task, card, record

TESTS = Path(__file__).resolve().parents[1]
LEVELS = ("macro", "meso", "micro")
ARMS: Mapping[str, Mapping[str, Any]] = {
    "stock": {"gradient_accumulation_steps": len(LEVELS)},
    "off": {"gradient_accumulation_steps": len(LEVELS), "sga": "false"},
    "tuples": {},
    "probe": {"sga_probe_every": 1},
}
RANK = 16
FREE = 0.85
"""The share of free memory that the estimate may take."""
PASS_OF = 1
"""Pictures of the whole FLUX that a pass may cost: larger batches get fewer blocks, so that the minutes suffice."""


@dataclasses.dataclass(frozen=True)
class Size:
    """script: of sd-scripts. model: in training/memory.py. side: of the pictures. toy: for a processor."""

    script: str
    model: str
    side: int
    batches: Sequence[int]
    toy: bool = False


SIZES = {
    "flux": Size("flux_train_network.py", "FLUX", 1024, (1, 4, 8)),
    "sdxl": Size("sdxl_train_network.py", "SDXL", 1024, (1, 4, 8)),
    "cpu": Size("flux_train_network.py", "FLUX", 64, (1,), toy=True),
}


def worker(name: str, batches: Sequence[int], arms: Sequence[str], steps: int, rounds: int, until: float) -> None:
    """All runs of one size, in a process of their own. Prints a line of JSON for each, and begins none that would end
    too late."""
    os.environ.update({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"})
    from tests.host.conftest import NO_CHECKOUT, default_checkout
    from tests.host.run import load_stack

    size, checkout = SIZES[name], default_checkout()
    if not checkout:
        sys.exit(NO_CHECKOUT)
    sys.path.insert(0, str(checkout))
    stack = load_stack(size.script)
    if size.model == "FLUX":
        stack.shrink_host()
    longest, full = dict.fromkeys(batches, 0.0), set()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for number, batch in itertools.product(range(rounds), batches):
            bench = Bench(size, batch, steps, checkout, stack, folder / f"{number}-{batch}")
            for arm in arms[:: -1 if number % 2 else 1]:
                if batch in full or time.time() + longest[batch] > until:
                    continue
                began = time.time()
                try:
                    bench.run(number, arm)
                except torch.OutOfMemoryError:
                    full.add(batch)
                    say(batch=batch, full=arm)
                longest[batch] = max(longest[batch], time.time() - began)


@dataclasses.dataclass
class Bench:
    """One size and batch, for one round of runs. known: the shapes of the model last made."""

    size: Size
    batch: int
    steps: int
    checkout: Path
    stack: Any
    folder: Path
    known: dict[str, Sequence[int]] = dataclasses.field(default_factory=dict)

    def run(self, number: int, arm: str) -> None:
        forget_last_run()
        shapes = prepare(self.stack, self.size, self.batch, self.known)
        found = run(self.checkout, self.size.script, arm, self.args | ARMS[arm], self.folder / arm)
        guess = expected(self.size, self.batch, self.args, self.known)
        say(batch=self.batch, round=number, arm=arm, shapes=shapes, **found, **guess)

    @functools.cached_property
    def args(self) -> dict[str, Any]:
        pictures = write_pictures(self.folder / "data", self.size, self.batch)
        return arguments(self.stack, self.size, pictures, self.folder, self.steps)


def say(**facts: Any) -> None:
    print(f"RESULT {json.dumps(facts)}", flush=True)


def prepare(stack: Any, size: Size, batch: int, known: dict[str, Sequence[int]]) -> str:
    """Put random models into the host. Returns what of the real ones they have. known: is told their shapes."""
    device = "cuda" if torch.cuda.is_available() and not size.toy else "cpu"
    if size.model == "SDXL":
        return random_sdxl(device, known)
    return random_flux(stack, size, batch, device, known)


def random_flux(stack: Any, size: Size, batch: int, device: str, known: dict[str, Sequence[int]]) -> str:
    """The tiny stack's stand-ins round a FLUX of real width, unless it is the toy."""
    from library import flux_models, flux_utils

    params = flux_models.configs["dev"].params
    if not size.toy:
        part = share(size, batch)
        params = dataclasses.replace(
            params,
            **{
                "hidden_size": 3072,
                "num_heads": 24,
                "axes_dim": [16, 56, 56],
                "context_in_dim": 4096,
                "vec_in_dim": 768,
            },
            depth=max(1, round(19 * part)),
            depth_single_blocks=max(1, round(38 * part)),
        )
        from tiny_stacks.tiny_text import clip, t5xxl

        flux_utils.load_clip_l = lambda path, dtype, device, *_, **__: clip(width=768).to(device, dtype)
        flux_utils.load_t5xxl = lambda path, dtype, device, *_, **__: t5xxl(width=4096).to(device, dtype)
    flux_utils.load_flow_model = lambda *_, **__: (False, filled(lambda: flux_models.Flux(params), device, known))
    blocks = f"{params.depth} of 19 double and {params.depth_single_blocks} of 38 single blocks"
    return f"{blocks} of FLUX.1, width {params.hidden_size}"


def random_sdxl(device: str, known: dict[str, Sequence[int]]) -> str:
    from library import sdxl_original_unet, sdxl_train_util
    from tiny_stacks.tiny_sd15 import vae
    from tiny_stacks.tiny_text import clip, use_tokenizers
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    def load(*_: Any, **__: Any) -> tuple:
        encoders = clip(12, CLIPTextModel, 768), clip(2, CLIPTextModelWithProjection, 1280)
        return True, *encoders, vae(), filled(sdxl_original_unet.SdxlUNet2DConditionModel, device, known), None, None

    sdxl_train_util._load_target_model = load
    use_tokenizers()
    return "the whole U-Net of SDXL"


def share(size: Size, batch: int) -> float:
    """Of FLUX's blocks that fit into the time and into free memory, by the estimate."""
    from sga_kohya.training.memory import GIGA, MODELS, Load, total

    free = torch.cuda.mem_get_info()[0] / GIGA if torch.cuda.is_available() else 8.0
    whole = MODELS[size.model]
    load = Load(batch, size.side, trained=0.09)
    parts = (min(1.0, PASS_OF / batch) * step / 20 for step in range(20, 1, -1))
    return next(
        (
            part
            for part in parts
            if total(dataclasses.replace(whole, weights=part * whole.weights, blocks=round(part * whole.blocks)), load)
            < FREE * free
        ),
        0.05,
    )


def filled(make: Any, device: str, known: dict[str, Sequence[int]]) -> Any:
    """The model with random weights, made where it will be trained. known: is told its shapes."""
    with torch.device("meta"):
        model = make()
    model = model.to(torch.bfloat16 if device == "cuda" else torch.float32).to_empty(device=device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.02)
            else:
                parameter.fill_(float(name.endswith(("weight", "scale"))))
    known.update({name: tuple(parameter.shape) for name, parameter in model.named_parameters()})
    return model


def expected(size: Size, batch: int, args: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """The estimate that a plan prints, in GB without the CUDA context, and the task whose pace is noted."""
    from sga_kohya.hosts.memory import load_of, model_of
    from sga_kohya.training.memory import CUDA, MODELS, Load, total
    from sga_kohya.training.paces import task_of

    model = model_of(MODELS[size.model], shapes)
    load = load_of(argparse.Namespace(**args), shapes, Load(batch, size.side))
    return {"estimate": total(model, load) - CUDA, "task": dataclasses.astuple(task_of(model, load))}


def write_pictures(folder: Path, size: Size, batch: int) -> Path:
    """A batch of groups, all of one bucket."""
    import numpy as np
    from PIL import Image

    lines = ["[[datasets]]", f"resolution = {size.side}", f"batch_size = {batch}"]
    lines += ["enable_bucket = true", "min_bucket_reso = 64", ""]
    for level in LEVELS:
        (folder / f"1_{level}").mkdir(parents=True)
        for number in range(batch):
            shade = np.full((size.side, size.side, 3), 20 * number % 256, np.uint8)
            Image.fromarray(shade).save(folder / f"1_{level}" / f"{number}.png")
            (folder / f"1_{level}" / f"{number}.txt").write_text(f"{level} of {number}")
        lines += ["[[datasets.subsets]]", f"image_dir = {json.dumps(str(folder / f'1_{level}'))}"]
        lines += ['caption_extension = ".txt"', ""]
    file = folder / "dataset.toml"
    file.write_text("\n".join(lines))
    return file


def arguments(stack: Any, size: Size, dataset: Path, folder: Path, steps: int) -> dict[str, Any]:
    """The host's, but for those of an arm."""
    if size.model == "FLUX":
        models = stack.write_models(folder / "models")
        args = stack.lora_args(models, dataset, folder, t5xxl_max_token_length=32 if size.toy else 512)
    else:
        args = stack.train_args(size.script, dataset, folder)
    cached = {"cache_latents": True, "cache_text_encoder_outputs": True}
    half = "bf16" if torch.cuda.is_available() and not size.toy else "no"
    own = {"network_dim": RANK, "gradient_checkpointing": True, "mixed_precision": half, "max_train_steps": steps}
    own |= {"lowram": True}  # else the model visits the processor before the first step, half a minute for FLUX
    return args | cached | own


def run(checkout: Path, script: str, arm: str, args: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """One training. Returns seconds a pass, gigabytes at most, and the estimate of those."""
    from sga_kohya.launch import run as through_our_door

    words = [word for key, value in args.items() if value is not False for word in as_words(key, value)]
    words += ["--output_dir", str(out)]
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    with watched() as ticks:
        if arm == "stock":
            sys.argv = [str(checkout / script), *words]
            runpy.run_path(sys.argv[0], run_name="__main__")
        else:
            through_our_door(script, ["--sd_scripts", str(checkout), *words])
    passes = len(LEVELS)
    spans = [
        late - early for early, late in zip(ticks[passes - 1 :: passes], ticks[2 * passes - 1 :: passes], strict=False)
    ]
    if not spans:
        raise RuntimeError(f"{arm} made {len(ticks)} passes; ask for 2 steps or more")
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else None
    return {"seconds": median(spans) / passes, "peak": peak, "passes": len(ticks)}


def as_words(key: str, value: Any) -> list[str]:
    values = [] if value is True else value if isinstance(value, list | tuple) else [value]
    return [f"--{key}", *map(str, values)]


def forget_last_run() -> None:
    """What the host and accelerate keep of a run in their modules, and what the card still holds of it."""
    from accelerate.state import AcceleratorState, GradientState
    from library import strategy_base

    for kind in vars(strategy_base).values():
        if isinstance(kind, type) and "_strategy" in vars(kind):
            kind._strategy = None
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextlib.contextmanager
def watched() -> Iterator[list[float]]:
    """When each backward pass ends; on a card by the clock, else by processor time."""
    from accelerate import Accelerator

    ticks: list[float] = []
    original, cuda = Accelerator.backward, torch.cuda.is_available()

    def backward(accelerator: Any, *args: Any, **kwargs: Any) -> None:
        original(accelerator, *args, **kwargs)
        if cuda:
            torch.cuda.synchronize()
        ticks.append(time.perf_counter() if cuda else time.process_time())

    with mock.patch.object(Accelerator, "backward", backward):
        yield ticks


def measure(
    name: str, batches: Sequence[int], arms: Sequence[str], steps: int, rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """What the worker of one size said, until its time was over. Raises RuntimeError where it failed."""
    asked = json.dumps([name, batches, arms, steps, rounds, time.time() + seconds])
    command, said, others = [sys.executable, __file__, "--worker", asked], [], collections.deque(maxlen=30)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    with subprocess.Popen(command, cwd=TESTS.parent, **pipes) as process:
        late = threading.Timer(1.2 * seconds + 30, process.kill)
        late.start()
        for line in process.stdout:
            if line.startswith("RESULT "):
                said.append(json.loads(line.removeprefix("RESULT ")))
                print(f"  {name}: {' '.join(told(said[-1]))}", file=sys.stderr, flush=True)
            else:
                others.append(line)
        on_time = late.is_alive()
        late.cancel()
    if process.returncode and on_time:
        raise RuntimeError("".join(others))
    return said


def told(fact: Mapping[str, Any]) -> Iterator[str]:
    """Of one run, while the others go on."""
    yield f"batch {fact['batch']},"
    yield f"no room for {fact['full']}" if "full" in fact else f"{fact['arm']} {fact['seconds']:.4f} s a pass"


def report(name: str, batch: int, arms: Sequence[str], said: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Lines of the table. said: of this batch."""
    runs = [fact for fact in said if "arm" in fact]
    yield f"{name}, batch {batch}: {runs[0]['shapes'] if runs else 'not begun in its time'}"
    yield from (f"  no room for {fact['full']}" for fact in said if "full" in fact)
    made = {(fact["round"], fact["arm"]): fact for fact in runs}
    rounds = [number for number in {fact["round"] for fact in runs} if all((number, arm) in made for arm in arms)]
    if not rounds:
        yield f"  no whole round: {len(made)} of {len(arms)} arms in its time; give it more --minutes"
        return
    for arm in arms:
        facts, stock = [made[number, arm] for number in rounds], [made[number, "stock"] for number in rounds]
        ratio = student([fact["seconds"] / other["seconds"] for fact, other in zip(facts, stock, strict=True)])
        seconds = median(fact["seconds"] for fact in facts)
        yield f"  {arm:<7} {seconds:>8.4f} s a pass, {ratio} of stock; {memory(facts, stock)}"
    many = "rounds" if len(rounds) > 1 else "round, so no interval,"
    yield f"  {len(rounds)} {many} of {facts[0]['passes']} passes"


def memory(facts: Sequence[Mapping[str, Any]], stock: Sequence[Mapping[str, Any]]) -> str:
    """Peak, over stock's, and the estimate beside it."""
    guess = facts[0]["estimate"]
    if facts[0]["peak"] is None:
        return f"memory not measured on a processor, estimated {guess:.2f} GB"
    peak, other = (max(fact["peak"] for fact in some) for some in (facts, stock))
    return f"{peak:.2f} GB, {peak / other:.3f} of stock; estimated {guess:.2f}, {guess / peak - 1:+.0%}"


def note_pace(size: Size, batch: int, said: Sequence[Mapping[str, Any]]) -> str:
    """Of a whole model on a card; see training/paces.py."""
    facts = [fact for fact in said if fact.get("arm") == "tuples" and fact["peak"] is not None]
    if not facts or not (size.model == "SDXL" or "19 of 19" in facts[0]["shapes"]):
        return ""
    seconds = median(fact["seconds"] for fact in facts) / batch
    return record(Task(*facts[-1]["task"]), seconds, batch * sum(fact["passes"] for fact in facts))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=some_of(SIZES), default=["flux", "sdxl"], help=f"of {', '.join(SIZES)}")
    parser.add_argument(
        "--batches", type=lambda text: [int(number) for number in text.split(",")], help="1,4,8 by default"
    )
    parser.add_argument("--arms", type=some_of(ARMS), default=ARMS, help=f"of {', '.join(ARMS)}; stock is always run")
    parser.add_argument("--minutes", type=float, default=7.5)
    parser.add_argument("--steps", type=int, default=3, help="of a run, three passes each; the first is left out")
    parser.add_argument("--rounds", type=int, default=100, help="at most")
    options = parser.parse_args()
    arms = [arm for arm in ARMS if arm in {"stock", *options.arms}]
    end, failed = time.time() + 60 * options.minutes, 0
    print(f"{card()}, torch {torch.__version__}; ratios with 95 % intervals over rounds")
    for number, name in enumerate(options.sizes):
        batches = options.batches or SIZES[name].batches
        seconds = (end - time.time()) / (len(options.sizes) - number)
        try:
            said = measure(name, batches, arms, options.steps, options.rounds, seconds)
        except RuntimeError as error:
            print(f"{name}: failed\n{error}", flush=True)
            failed = 1
            continue
        for batch in batches:
            own = [fact for fact in said if fact["batch"] == batch]
            lines = [*report(name, batch, arms, own), note_pace(SIZES[name], batch, own)]
            print(*filter(None, lines), sep="\n", flush=True)
    return failed


def some_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Reads names with commas between."""

    def read(text: str) -> list[str]:
        if unknown := [name for name in text.split(",") if name not in known]:
            raise argparse.ArgumentTypeError(f"there is no {', '.join(unknown)}: choose of {', '.join(known)}")
        return text.split(",")

    return read


if __name__ == "__main__":
    sys.path.insert(0, str(TESTS.parent))
    if sys.argv[1:2] == ["--worker"]:
        worker(*json.loads(sys.argv[2]))
    else:
        sys.exit(main())
