"""What a host's settings and a checkpoint's header mean for the GPU's memory; see training/memory.py.

Both hosts call these options alike.
"""

import argparse
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sga_kohya.kit.safetensors_file import tensor_shapes
from sga_kohya.training.memory import MODELS, Load, Model

_OF_MODEL = "model.diffusion_model."
"""How the names begin of what is trained, in checkpoints that hold more."""
_BLOCK = re.compile(r"(?:^|\.)((?:double_|single_|joint_|transformer_)?blocks|layers)\.\d+\.")
_PROJECTION = re.compile(r"(?:qkv|self_attn\.q|to_q)\.weight$")
_OLD_SWITCHES = {"use_8bit_adam": "AdamW8bit", "use_lion_optimizer": "Lion"}

Shapes = Mapping[str, Sequence[int]]


def question(name: str, args: argparse.Namespace, file: Path, load: Load) -> tuple[Model, Load] | None:
    """What is trained and how; None for a family whose numbers nobody has written down.

    name: of a model in training/memory.py. args: the host's. file: of the weights. load: pictures and encoders of it.
    """
    if name not in MODELS:
        return None
    shapes = _trained(tensor_shapes(file))
    return model_of(MODELS[name], shapes), load_of(args, shapes, load)


def model_of(usual: Model, shapes: Shapes) -> Model:
    """The usual model with the numbers of this checkpoint, where its header tells them."""
    if not shapes:
        return usual
    found = replace(usual, weights=_billions(shapes))
    blocks = {match.group() for name in shapes if (match := _BLOCK.search(name))}
    widths = [shape[1] for name, shape in shapes.items() if _PROJECTION.search(name) and _BLOCK.search(name)]
    if not usual.blocks or not blocks or not widths:
        return found
    # blocks_to_swap counts a double block as one, and two single blocks.
    units = sum(0.5 if "single" in name else 1 for name in blocks)
    return replace(found, blocks=len(blocks), units=int(units), width=max(set(widths), key=widths.count))


def load_of(args: argparse.Namespace, shapes: Shapes, load: Load) -> Load:
    """load: with its pictures. Returns it with what the settings say of weights, adapter, optimizer and switches."""
    adapter, half = _on(args, "network_module"), args.mixed_precision in ("fp16", "bf16")
    if adapter:
        weight_bytes = 1 if _on(args, "fp8_base", "fp8_base_unet") else 2 if half else 4
        rows_and_columns = sum(shape[0] + shape[1] for shape in shapes.values() if len(shape) >= 2)
        trained = rows_and_columns * (args.network_dim or 4) / 1e9  # at most: as if every matrix had an adapter
    else:
        weight_bytes = 2 if _on(args, "full_bf16", "full_fp16") else 4
        trained = _billions(shapes)
    return replace(
        load,
        weight_bytes=weight_bytes,
        trained=trained,
        adapter=adapter,
        optimizer=optimizer_of(args),
        checkpointing=_on(args, "gradient_checkpointing"),
        swapped=int(getattr(args, "blocks_to_swap", None) or 0),
    )


def optimizer_of(args: argparse.Namespace) -> str:
    """Its name, also where an older switch says it."""
    switched = next((name for switch, name in _OLD_SWITCHES.items() if _on(args, switch)), "AdamW")
    return str(args.optimizer_type or switched)


def _trained(shapes: Shapes) -> Shapes:
    return {name: shape for name, shape in shapes.items() if name.startswith(_OF_MODEL)} or shapes


def _billions(shapes: Shapes) -> float:
    return sum(math.prod(shape) for shape in shapes.values()) / 1e9


def _on(args: argparse.Namespace, *names: str) -> bool:
    return any(getattr(args, name, None) for name in names)
