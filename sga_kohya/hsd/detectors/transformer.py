"""What the detectors of transformers share: loading by folder or hub name, and batches in which nothing is padded."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sga_kohya.errors import SgaError
from sga_kohya.hsd.detect import View
from sga_kohya.hsd.detectors.letterbox import chunks
from sga_kohya.hsd.devices import batch_size
from sga_kohya.kit.extras import library

if TYPE_CHECKING:
    import torch


def load_pretrained(auto_classes: Sequence[str], model: str, who: str, extra: str) -> list[Any]:
    """What transformers.CLASS.from_pretrained(model) returns, for each class. who: of messages.

    Raises SgaError in one line.

    Models keep the precision they were saved in: float32 would take twice the memory of most.
    """
    transformers = library("transformers", extra, who)
    try:
        options = {name: {"torch_dtype": "auto"} if name.startswith("AutoModel") else {} for name in auto_classes}
        return [getattr(transformers, name).from_pretrained(model, **given) for name, given in options.items()]
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        raise SgaError(f"{who}: cannot load model {model}: {reason}") from error


def each_view(
    views: Sequence[View],
    preprocess: Callable[[np.ndarray], "torch.Tensor"],
    answer: Callable[["torch.Tensor", Sequence[View]], Sequence[Mapping[str, Any]]],
    device: "torch.device",
) -> list[Mapping[str, Any]]:
    """One answer per view. preprocess: (H, W, 3) uint8 to (1, 3, h, w). answer: of a batch, for each of its views.

    Only views of one preprocessed shape share a batch: padding to the largest would let views change each other.
    """
    import torch

    pixels = [preprocess(view.pixels) for view in views]
    by_shape: dict[Any, list[int]] = defaultdict(list)
    for i, values in enumerate(pixels):
        by_shape[tuple(values.shape)].append(i)
    answers: dict[int, Mapping[str, Any]] = {}
    for same in by_shape.values():
        for chunk, real in chunks(same, batch_size(device)):
            with torch.inference_mode():
                found = answer(torch.cat([pixels[i] for i in chunk]).to(device), [views[i] for i in chunk])
            answers |= dict(zip(chunk[:real], found[:real], strict=True))
    return [answers[i] for i in range(len(views))]


def target_sizes(views: Sequence[View]) -> list[tuple[int, int]]:
    """(height, width) of each view, to which post-processing scales its boxes."""
    return [(view.size[1], view.size[0]) for view in views]
