"""An estimate of the GPU memory that a training takes: weights, adapter, optimizer, activations.

What is kept for the backward pass was counted on the models' own code at their real sizes: of a DiT 2 bytes a token and
channel for each checkpointed block and 50 for another, of a U-Net by its latent pixels. What a checkpointed part takes
on top while it is worked on, adapter included, was measured on one H100 with FLUX.1 and SDXL (tests/bench/gpu.py). The
sum met that card's peaks to 6 %, and agrees with what both hosts publish of FLUX.1 and Qwen-Image to 2 GB
(tests/test_memory.py has the figures). Tuples take no more: their sub-batches come one after another.

GB are those that cards are sold by, 2**30 bytes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

GIGA = 2**30
BILLION = 1e9 / GIGA
"""GB of a billion bytes."""
_KEPT, _WHOLE, _WORKED_ON = 2, 50, 88
"""Bytes a token and channel of a DiT: of each block with checkpointing and without, and of the one worked on."""
CUDA = 1.0
"""GB of the CUDA context, of workspaces and of what the allocator keeps."""
_STATES = {
    **{"adamw8bit": 2, "lion8bit": 1, "adafactor": 0.1, "lion": 4, "sgd": 4, "sgdnesterov": 4, "adamw": 8, "adam": 8},
    **{"pagedadamw8bit": 0, "prodigy": 16, "dadaptadam": 12, "came": 4, "adamwschedulefree": 8},
}
"""Bytes a trained parameter, by an optimizer's name in small letters."""
_UNKNOWN_STATES = 8


@dataclass(frozen=True)
class Model:
    """What of a model decides its memory. Parameters are in billions.

    weights: of what is trained, adapter or not. blocks, width: of a DiT; 0 for a U-Net, whose kilobytes a latent pixel
    (of 8 x 8 pixels) are kept, with checkpointing, and whole. units: what blocks_to_swap counts. text: tokens of the
    prompt that go through the blocks. encoders: of text, which stay on the GPU unless their outputs are cached. fp8:
    bytes a weight of 8 bits, where some layers stay in 16.
    """

    weights: float
    blocks: int = 0
    width: int = 0
    units: int = 0
    text: int = 512
    kept: float = 0.0
    whole: float = 0.0
    encoders: float = 0.0
    fp8: float = 1.0


MODELS = {
    "FLUX": Model(11.90, blocks=57, width=3072, units=38, encoders=4.88),
    "SD3": Model(2.24, blocks=24, width=1536, units=24, text=154, encoders=5.58),
    "SDXL": Model(2.57, kept=33.6, whole=421.6, encoders=0.82),
    "Stable Diffusion": Model(0.86, kept=20.6, whole=228.6, encoders=0.12),
    "FLUX.2": Model(9.08, blocks=32, width=4096, units=20, encoders=8.2),
    "Z-Image": Model(6.15, blocks=34, width=3840, units=30, encoders=4.0),
    "Qwen-Image": Model(20.4, blocks=60, width=3072, units=60, encoders=8.3, fp8=1.33),
    "Wan": Model(14.3, blocks=40, width=5120, units=40, encoders=5.7),
}
"""By the names of both hosts' families: FLUX.1, SD3.5 Medium, FLUX.2 [klein] base 9B, Wan 14B."""
_RECOMPUTED = 0.045
"""The share of a U-Net's activations that its largest checkpointed part takes while it makes them again."""


@dataclass(frozen=True)
class Load:
    """What a training does with a model.

    batch: pictures in a (sub-)batch. side: pixels, of the square of the largest area. weight_bytes: of a frozen or
    trained weight: 1, 2 or 4. trained: billions of trained parameters, 4 bytes each. adapter: whether they are beside
    the weights. optimizer: its name. swapped: blocks_to_swap. frames: of a clip. encoders: whether they stay.
    """

    batch: int
    side: int
    weight_bytes: float = 2.0
    trained: float = 0.0
    adapter: bool = True
    optimizer: str = "AdamW"
    checkpointing: bool = True
    swapped: int = 0
    frames: int = 1
    encoders: bool = False


@dataclass(frozen=True)
class Part:
    """gigabytes: may be negative, for what is taken away."""

    name: str
    gigabytes: float
    how: str


def parts(model: Model, load: Load) -> Iterator[Part]:
    """What the memory is made of."""
    each = model.fp8 if load.weight_bytes == 1 else load.weight_bytes
    yield Part(
        "weights",
        model.weights * each * BILLION,
        f"{model.weights:.2f} B parameters of {each:g} byte{'s' * (each != 1)}",
    )
    if load.swapped and model.units:
        swapped = model.weights * each * BILLION * min(load.swapped, model.units) / model.units
        yield Part("swapped", -swapped, f"blocks_to_swap = {load.swapped} of {model.units} stay in main memory")
    if load.encoders:
        yield Part(
            "text encoders", 2 * model.encoders * BILLION, f"{model.encoders:.2f} B parameters at 2 bytes, not cached"
        )
    states = _STATES.get(load.optimizer.lower().rpartition(".")[2], _UNKNOWN_STATES)
    own = 4 if load.adapter else 0
    yield Part(
        "adapter" if load.adapter else "training",
        load.trained * (own + 4 + states) * BILLION,
        f"{1000 * load.trained:.0f} M parameters{' of 4 bytes' * load.adapter}, gradients of 4, {load.optimizer}'s "
        f"states of {states:g}",
    )
    yield from _activations(model, load)
    yield Part("CUDA", CUDA, "context, workspaces, what the allocator keeps")


def total(model: Model, load: Load) -> float:
    """Gigabytes."""
    return sum(part.gigabytes for part in parts(model, load))


def sentence(found: Sequence[Part]) -> str:
    """The sum, and the larger parts of it."""
    each = ", ".join(f"{part.name} {part.gigabytes:.1f}" for part in found if abs(part.gigabytes) >= 0.05)
    return f"about {sum(part.gigabytes for part in found):.1f} GB of a GPU, an estimate: {each}"


def table(found: Sequence[Part]) -> list[str]:
    """A line for each part, and their sum."""
    lines = [f"{part.name:<14} {part.gigabytes:>6.1f} GB  {part.how}" for part in found]
    return [*lines, f"{'together':<14} {sum(part.gigabytes for part in found):>6.1f} GB, an estimate"]


def _activations(model: Model, load: Load) -> Iterator[Part]:
    pictures = f"{load.batch} of {load.side} x {load.side}" + (f" x {load.frames} frames" if load.frames > 1 else "")
    how = "one block worked on, the inputs of the others kept" if load.checkpointing else "all kept: no checkpointing"
    if model.blocks:
        tokens = load.batch * ((load.side // 16) ** 2 * (1 + (load.frames - 1) // 4) + model.text)
        blocks = _KEPT * model.blocks + _WORKED_ON if load.checkpointing else _WHOLE * model.blocks
        gigabytes = tokens * model.width * blocks / GIGA
    else:
        pixels = load.batch * (load.side // 8) ** 2
        kilobytes = model.kept + _RECOMPUTED * model.whole if load.checkpointing else model.whole
        gigabytes = pixels * kilobytes * 1e3 / GIGA
    yield Part("activations", gigabytes, f"{pictures}, {how}")
