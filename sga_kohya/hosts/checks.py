"""What cannot work with either trainer, from words and files alone: said before anything is imported or loaded."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sga_kohya.config import SgaConfig
from sga_kohya.errors import SgaError
from sga_kohya.tuples import states

STEPS_INSIDE_BACKWARD = "it steps the optimizer inside backward, before the tuple's other slices were seen"
SWITCHED_OFF = (None, False, "false")


def first(problems: Iterable[str]) -> None:
    """Raises SgaError for the first problem, if there is one."""
    problem = next(iter(problems), None)
    if problem is not None:
        raise SgaError(problem)


def not_named(option: str, script: str) -> str:
    """Of a model that is needed. The door and the doctor say it alike, so that the doctor counts it once."""
    return f"--{option} is not set, and {script} cannot start without it"


def not_there(option: str, file: str) -> str:
    """Of a file that an option names; alike everywhere, as above."""
    return f"--{option} {file}: {Path(file).absolute()} does not exist; correct the path"


def tuple_problems(options: Mapping[str, Any], config: SgaConfig, excluded: Mapping[str, str]) -> Iterator[str]:
    """Options that need to know better than we when the optimizer steps and processes synchronise.

    options: command line over TOML, see options.read_options. excluded: the trainer's own, with the reason of each.
    """
    if not (config.tuples or config.probe_every):
        return
    wish, remedy = ("tuples", "set --sga_tuples=false") if config.tuples else ("the probe", "leave out sga_probe_every")
    for name, reason in excluded.items():
        if options.get(name) not in SWITCHED_OFF:
            yield f"--{name} excludes {wish}: {reason}. Leave it out, or {remedy}"
    if wants_static_graph(options) and _processes() > 1:
        yield (
            f"--ddp_static_graph excludes {wish} with several processes: torch's static graph cannot leave out "
            "synchronising, as sub-batches need. Leave it out (--ddp_gradient_as_bucket_view may stay), or "
            f"{remedy}"
        )


def resume_problems(options: Mapping[str, Any]) -> Iterator[str]:
    """A state to resume that is not there, or damaged."""
    if options.get("resume") and options.get("resume_from_huggingface") in SWITCHED_OFF:
        found = states.problem(Path(str(options["resume"])))
        if found is not None:
            yield f"--resume {found}"


def wants_static_graph(options: Mapping[str, Any]) -> bool:
    """Whether DDP is to assume one graph. A network trainer never runs DDP's forward pass, where it would count."""
    return options.get("ddp_static_graph") not in SWITCHED_OFF and not options.get("network_module")


def static_graph_advice(options: Mapping[str, Any]) -> Iterator[str]:
    if wants_static_graph(options):
        yield "ddp_static_graph works with tuples in one process only: leave it out before you train with several"


def _processes() -> int:
    """Of this run, as torchrun or an MPI launcher tells each of them."""
    names = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
    return max(int(os.environ.get(name, "1")) for name in names)


def fp8_problems(options: Mapping[str, Any]) -> Iterator[str]:
    """LyCORIS (to 4.1.3 at least) adds to the base weight itself unless it is told to bypass it."""
    if all(options.get(name) in SWITCHED_OFF for name in ("fp8_base", "fp8_base_unet")):
        return
    if _wants_dora(options):
        yield (
            "fp8_base excludes LyCORIS DoRA (dora_wd=True): DoRA needs the norm of the base weight, and torch has no "
            "such kernel for Float8. Leave out one of the two"
        )
    elif str(options.get("network_module") or "").startswith("lycoris") and not _asks(options, "bypass_mode"):
        yield (
            "fp8_base excludes LyCORIS without bypass_mode: it adds to the base weight, and torch has no such kernel "
            'for Float8. Add "bypass_mode=True" to network_args, or leave out fp8_base'
        )


def dora_advice(options: Mapping[str, Any]) -> Iterator[str]:
    """LyCORIS 4.1.3 normalises by W + delta W on either axis, ComfyUI on the input axis only.

    Where dora_scale has one entry per output, ComfyUI divides by the norm of W alone: ComfyUI pull request 15458 (open
    in August 2026) and LyCORIS issue 216.
    """
    if _wants_dora(options) and _asks(options, "wd_on_output", "true"):
        yield (
            "ComfyUI applies DoRA of the output axis (LyCORIS' default) differently: images made there differ from the "
            'samples made in training. If you use ComfyUI, add "wd_on_output=False" to network_args'
        )


def _wants_dora(options: Mapping[str, Any]) -> bool:
    """Whether LyCORIS is asked for weight decomposition."""
    return _asks(options, "dora_wd")


def _asks(options: Mapping[str, Any], name: str, usual: str = "false") -> bool:
    """Whether network_args say so, as LyCORIS reads it: everything but "false" does."""
    return _network_args(options).get(name, usual) != "false"


def _network_args(options: Mapping[str, Any]) -> dict[str, str]:
    """--network_args as a mapping, in lower case and without spaces."""
    words = options.get("network_args") or []
    words = [words] if isinstance(words, str) else words
    pairs = (str(word).replace(" ", "").lower().partition("=") for word in words)
    return {name: value for name, _, value in pairs}
