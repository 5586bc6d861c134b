"""The interference probe: Gram matrices of the granularities' gradients (Eq. 43-45 of arXiv:2603.10785), step by step.

g_k, the part of a tuple step's gradient that granularity k brought, costs no pass of the model. Inner products are
taken layer by layer in float32, exactly where the trained gradients are few enough to keep K of them (adapters), else
on a sketch of each layer (full fine-tunes).

The control. A step often has one sub-batch for each granularity, and dealing those out anew only renames them. So the
last `WINDOW` probed steps are pooled, each sub-batch's gradient as a sketch, and labels are dealt out at random with
equal counts inside each step (among all steps with a single sub-batch, for those). What the real labels show beyond
the random ones is interference between granularities; the rest is that gradients of different batches differ. A
sub-batch keeps its weight of Eq. 6, so with unequal `sga_loss_weight` the random partitions are not quite exchangeable.
"""

import logging
import math
import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from sga_kohya.equations import gram as grams
from sga_kohya.tuples.gradients import MIXED, Gradients, all_labels, names_of, products, trained
from sga_kohya.tuples.sketch import WIDTH, sketch

logger = logging.getLogger(__name__)

WINDOW = 16  # probed steps pooled for the control
DRAWS = 200  # random partitions
EXACT_UP_TO = 1 << 27  # trained numbers; K copies in float32 of so many are K times 512 MiB

_PARTS = re.compile(
    r"^(?P<layer>.*?)\.?(?P<part>lora_down|lora_up|lora_mid|lora_A|lora_B|lora_embedding_A|lora_embedding_B|dora_scale"
    r"|lora_magnitude_vector|lokr_w1|lokr_w2|lokr_t2|hada_w1|hada_w2|hada_t\d|oft_\w+)(?=[._]|$)"
)
_SHORT = {
    **dict.fromkeys(("lora_down", "lora_A", "lora_embedding_A"), "A"),
    **dict.fromkeys(("lora_up", "lora_B", "lora_embedding_B"), "B"),
    **dict.fromkeys(("dora_scale", "lora_magnitude_vector"), "magnitude"),
    **{f"lokr_w{i}": f"w{i}" for i in (1, 2)},
}

Report = dict[str, Any]


def split_name(name: str) -> tuple[str, str]:
    """A parameter's layer and its part in it. A has no gradient while B is 0, so the two are reported apart.

    Parts are A and B (LoRA, DoRA), magnitude (DoRA), w1 and w2 (LoKr), and weight for everything else.
    """
    found = _PARTS.match(name)
    if found is None:
        return name.rpartition(".")[0] or name, "weight"
    return found["layer"], _SHORT.get(found["part"], found["part"])


class Probe:
    """Looks at every n-th optimizer step. report(record): called on each process, with the same record. window: how
    many of those steps are pooled.

    Multiplies out on the device and copies small matrices once, at the end of such a step.
    """

    def __init__(self, accelerator: Accelerator, every: int, report: Callable[[Report], None], window: int = WINDOW):
        self.accelerator, self.every, self.report = accelerator, every, report
        self.window: deque[list[tuple[str, Tensor]]] = deque(maxlen=window)
        self._recent: deque[list[float]] = deque(maxlen=window)  # cosines of each step in the window
        self._units: dict[tuple[str, str], list[int]] = {}
        self._sizes: list[int] = []
        self._kept: dict[str, dict[tuple[str, str], Tensor]] = {}
        self._sub_batches: list[tuple[str, Tensor]] = []

    def due(self, step: int) -> bool:
        """step: an optimizer step, from 1."""
        return step % self.every == 0

    @property
    def exact(self) -> bool:
        """Whether inner products of granularities are exact; those between steps are always sketched."""
        return sum(self._sizes) <= EXACT_UP_TO

    def add(self, label: str, gradients: Gradients, scale: float) -> None:
        """A sub-batch's gradient, of a loss that was multiplied by scale. The tensors are not kept."""
        if not self._units:
            self._learn_names()
        whole = torch.zeros(WIDTH, device=self.accelerator.device)
        kept = self._kept.setdefault(label, {})
        for unit, places in self._units.items():
            if all(gradients[i] is None for i in places):
                continue
            vector = self._flat(gradients, places) / scale
            short = sketch(vector, "/".join(unit))
            whole += short.to(whole.device)
            value = vector if self.exact else short
            kept[unit] = kept[unit].add_(value) if unit in kept else value
        self._sub_batches.append((label, whole))

    def finish(self, step: int) -> None:
        """The optimizer step is complete: its record goes out. Where a loss scaler overflowed there is none."""
        sub_batches = [(label, whole.cpu()) for label, whole in self._sub_batches]
        if self.accelerator.num_processes > 1:
            sub_batches = gather_object(sub_batches)
        labels = all_labels(self.accelerator, list(self._kept))
        units, table = self._grams(labels)
        self._kept, self._sub_batches = {}, []
        if not bool((table != 0).any()):
            logger.warning(
                "step %d: the probe found no gradients; the optimizer may step inside backward (fused_backward_pass)",
                step,
            )
        elif bool(torch.isfinite(table).all()):
            before = self.window[-1] if self.window else None
            self.window.append(sub_batches)
            self.report(self._record(step, labels, units, table, before))

    def _learn_names(self) -> None:
        parameters = trained(self.accelerator)
        self._sizes = [parameter.numel() for parameter in parameters]
        for i, name in enumerate(names_of(self.accelerator, parameters)):
            self._units.setdefault(split_name(name), []).append(i)

    def _flat(self, gradients: Gradients, places: Sequence[int]) -> Tensor:
        """The unit's gradients as one new vector, float32."""
        device = next(gradient.device for i in places if (gradient := gradients[i]) is not None)
        pieces = [gradients[i] for i in places]
        return torch.cat(
            [
                torch.zeros(self._sizes[i], device=device) if piece is None else piece.detach().flatten().float()
                for i, piece in zip(places, pieces, strict=True)
            ]
        )

    def _grams(self, labels: Sequence[str]) -> tuple[list[tuple[str, str]], Tensor]:
        """The units and their Gram matrices, (U, K, K), of gradients averaged over processes."""
        tables = []
        for unit, places in self._units.items():
            length = sum(self._sizes[i] for i in places) if self.exact else WIDTH
            known = next((kept[unit] for kept in self._kept.values() if unit in kept), None)
            device = self.accelerator.device if known is None else known.device
            zero = torch.zeros(length, device=device)
            rows = [self._kept.get(label, {}).get(unit, zero) for label in labels]
            if self.accelerator.num_processes > 1:
                rows = [self.accelerator.reduce(row, "mean") for row in rows]
            tables.append(products(rows))
        return list(self._units), torch.stack([table.to(tables[0].device) for table in tables]).double().cpu()

    def _record(
        self,
        step: int,
        labels: list[str],
        units: list[tuple[str, str]],
        table: Tensor,
        before: list[tuple[str, Tensor]] | None,
    ) -> Report:
        known = [i for i, label in enumerate(labels) if label != MIXED]
        names = [labels[i] for i in known]
        table = table[:, known][:, :, known]
        figures = grams.summary(table.sum(0), names)
        self._recent.append([value for name, value in figures.items() if name.startswith("cosine/")])
        parts = ordered_parts(units)
        record: Report = {"step": step, "labels": names, "gram": table.sum(0).tolist(), **figures}
        record["parts"] = {
            part: grams.summary(sum_of(table, units, part), names)
            for part in parts
            if len(parts) > 1 and bool(sum_of(table, units, part).any())
        }
        record["layers"] = _layers(units, table, names)
        if before is not None:
            record["step_cosine"] = _cosine(_total(before), _total(self.window[-1]))
        record["window"] = self._window(step)
        record["sketch_error"] = 0.0 if self.exact else round(WIDTH**-0.5, 4)
        return record

    def _window(self, step: int) -> Report:
        """The last probed steps summed by granularity, beside random partitions of the same gradients."""
        pooled = [
            (number if len(sub_batches) > 1 else "alone", label, vector)
            for number, sub_batches in enumerate(self.window)
            for label, vector in sub_batches
            if label != MIXED
        ]
        recent = [cosine for cosines in self._recent for cosine in cosines]
        result: Report = {"steps": len(self.window)}
        if recent:
            result["conflict_rate"] = sum(cosine < 0 for cosine in recent) / len(recent)
        if len({label for _, label, _ in pooled}) < 2:
            return result
        vectors = torch.stack([vector for _, _, vector in pooled]).double()
        labels, blocks = [label for _, label, _ in pooled], [block for block, _, _ in pooled]
        found = grams.pool(vectors @ vectors.T, labels, blocks, DRAWS, step)
        result |= found.real
        if found.control:
            result["control"] = found.control
        return result


def ordered_parts(units: Sequence[tuple[str, str]]) -> list[str]:
    """Each part once."""
    return list(dict.fromkeys(part for _, part in units))


def sum_of(table: Tensor, units: Sequence[tuple[str, str]], part: str) -> Tensor:
    """The Gram matrix of one part over all layers. table: (U, K, K). Returns (K, K)."""
    return table[[i for i, (_, other) in enumerate(units) if other == part]].sum(0)


def _layers(units: Sequence[tuple[str, str]], table: Tensor, names: Sequence[str]) -> dict[str, Report]:
    """By pair: the share of layers that conflict (their parts together), and the layer that conflicts most."""
    layers = list(dict.fromkeys(layer for layer, _ in units))
    place = torch.tensor([layers.index(layer) for layer, _ in units])
    whole = torch.zeros(len(layers), *table.shape[1:], dtype=table.dtype).index_add_(0, place, table)
    found = {}
    for i, j in grams.pairs(len(names)):
        cosines = grams.cosines(whole)[:, i, j]
        known = cosines[torch.isfinite(cosines)]
        if len(known):
            worst = int(cosines.nan_to_num(nan=2.0).argmin())
            found[f"{names[i]}-{names[j]}"] = {
                "conflict_rate": float((known < 0).double().mean()),
                "lowest": [layers[worst], round(float(cosines[worst]), 4)],
            }
    return found


def _total(sub_batches: Sequence[tuple[str, Tensor]]) -> Tensor:
    return torch.stack([vector for _, vector in sub_batches]).sum(0)


def _cosine(left: Tensor, right: Tensor) -> float | None:
    value = float(left @ right / (left.norm() * right.norm()))
    return value if math.isfinite(value) else None
