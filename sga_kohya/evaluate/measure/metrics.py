"""CLIP-I, CLIP-T, DINO-I and further columns for every image (section 4.4.2), and a warning of copied references."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sga_kohya.errors import SgaError
from sga_kohya.evaluate.measure.backbones import Backbone, cache_file
from sga_kohya.evaluate.measure.copies import References
from sga_kohya.evaluate.plan.plan import Cell, Plan
from sga_kohya.evaluate.sample.images import all_images, load
from sga_kohya.kit.files import write_csv, write_whole
from sga_kohya.kit.intervals import Interval, intervals

FILE = "metrics.json"


@dataclass(frozen=True)
class Scores:
    """columns: such as CLIP-I, in order. values: {column: {cell: number}}. near_copies: (cell, reference, bits)."""

    columns: tuple[str, ...]
    values: Mapping[str, Mapping[Cell, float]]
    near_copies: tuple[tuple[Cell, str, int], ...]
    backbones: tuple[dict[str, Any], ...]
    warnings: tuple[str, ...] = ()


def measure(plan: Plan, device: str) -> Scores:
    """Embed and compare every image of the plan, write metrics.json and metrics.csv, and return the scores."""
    files = all_images(plan)
    values: dict[str, dict[Cell, float]] = {}
    backbones, warnings = [], []
    for column, name in columns_of(plan).items():
        # A folder is relative to the plan, as all of its paths; else the name is one of the hub's.
        folder = plan.folder / os.path.expanduser(name)
        backbone = Backbone(str(folder) if folder.is_dir() else name, device, plan.metrics.batch_size)
        backbones.append({"column": column, **backbone.describe(), "model": name})
        if column == "CLIP" and not backbone.has_text:
            raise SgaError(f"[metrics]: clip = {name!r} has no text encoder, which CLIP-T needs")
        every = [*(path for dataset in plan.datasets for path in dataset.references), *files.values()]
        features = backbone.images(every, cache_file(plan.out / "embeddings", name))
        values[f"{column}-I"] = image_scores(plan, files, features)
        if backbone.has_text:
            values[f"{column}-T"], long = text_scores(plan, files, features, backbone)
            warnings += [f"{column}-T sees only the beginning of the prompt {prompt!r}" for prompt in long]
    copies = tuple(near_copies(plan, files))
    scores = Scores(tuple(values), values, copies, tuple(backbones), tuple(warnings))
    save(plan, scores)
    return scores


def columns_of(plan: Plan) -> dict[str, str]:
    """{column: model}. Further backbones are named by the last part of theirs."""
    columns = {"CLIP": plan.metrics.clip, "DINO": plan.metrics.dino}
    for name in plan.metrics.further:
        column = name.rstrip("/").rpartition("/")[2]
        if column in columns:
            raise SgaError(f"[metrics]: further names {column!r} twice, or as one of CLIP and DINO")
        columns[column] = name
    return columns


def image_scores(plan: Plan, files: Mapping[Cell, Path], features: Mapping[Path, np.ndarray]) -> dict[Cell, float]:
    """The mean cosine of each image with the references of its dataset. features: unit vectors."""
    means = {d.name: np.mean([features[path] for path in d.references], axis=0) for d in plan.datasets}
    return {cell: float(features[path] @ means[cell.dataset]) for cell, path in files.items()}


def text_scores(
    plan: Plan, files: Mapping[Cell, Path], features: Mapping[Path, np.ndarray], backbone: Backbone
) -> tuple[dict[Cell, float], list[str]]:
    """The cosine of each image with its prompt, and the prompts that were cut."""
    found = {dataset.name: backbone.texts(dataset.prompts) for dataset in plan.datasets}
    texts = {name: embedded for name, (embedded, _) in found.items()}
    scores = {cell: float(features[path] @ texts[cell.dataset][cell.prompt]) for cell, path in files.items()}
    return scores, [prompt for _, cut in found.values() for prompt in cut]


def near_copies(plan: Plan, files: Mapping[Cell, Path]) -> list[tuple[Cell, str, int]]:
    """Images within near_copy_bits (of 64) of a part of a reference or of its mirror image."""
    found = []
    for dataset in plan.datasets:
        references = References(dataset.references)
        cells = [cell for cell in files if cell.dataset == dataset.name]
        for cell in tqdm(cells, desc=f"near-copies {dataset.name}", unit="image", delay=2):
            bits, name = references.nearest(load(files[cell]))
            if bits <= plan.metrics.near_copy_bits:
                found.append((cell, name, bits))
    return found


def prompt_means(plan: Plan, scores: Mapping[Cell, float]) -> list[np.ndarray]:
    """Seeds averaged. Returns (prompts, variants) for each dataset."""
    return [
        np.array(
            [
                [
                    np.mean([scores[Cell(dataset.name, variant, prompt, seed)] for seed in plan.seeds])
                    for variant in plan.variant_names
                ]
                for prompt in range(len(dataset.prompts))
            ]
        )
        for dataset in plan.datasets
    ]


def metric_intervals(plan: Plan, scores: Mapping[Cell, float]) -> list[Interval]:
    """The metric of each variant, averaged over seeds, prompts, then datasets."""
    return intervals(prompt_means(plan, scores), plan.bootstrap, plan.confidence, plan.seed, (-1.0, 1.0))


def metric_difference(plan: Plan, scores: Mapping[Cell, float], left: str, right: str) -> Interval:
    """left minus right, paired by dataset and prompt."""
    pair = [plan.variant_names.index(left), plan.variant_names.index(right)]
    units = [unit[:, pair] @ np.array([[1.0], [-1.0]]) for unit in prompt_means(plan, scores)]
    return intervals(units, plan.bootstrap, plan.confidence, plan.seed)[0]


def save(plan: Plan, scores: Scores) -> None:
    """metrics.json for the report, metrics.csv with a line for each image."""
    cells = sorted(scores.values[scores.columns[0]], key=lambda c: (c.dataset, c.variant, c.prompt, c.seed))
    rows = [[c.dataset, c.variant, c.prompt + 1, c.seed, *(scores.values[k][c] for k in scores.columns)] for c in cells]
    header = ["dataset", "variant", "prompt", "seed", *scores.columns]
    content = {
        "columns": scores.columns,
        "rows": rows,
        "near_copies": [[c.dataset, c.variant, c.prompt + 1, c.seed, name, n] for c, name, n in scores.near_copies],
        "backbones": scores.backbones,
        "warnings": scores.warnings,
    }
    plan.out.mkdir(parents=True, exist_ok=True)
    write_whole(plan.out / FILE, json.dumps(content, indent=1))
    write_csv(plan.out / "metrics.csv", header, rows)


def read(plan: Plan) -> Scores | None:
    """What `measure` saved. None before it ran. Raises SgaError when the plan has changed since, or the file has."""
    path = plan.out / FILE
    if not path.is_file():
        return None
    try:
        scores = _scores(json.loads(path.read_text(encoding="utf-8")))
        cells = set(scores.values[scores.columns[0]])
    except (ValueError, TypeError, LookupError, RecursionError):
        raise SgaError(f"{path} is damaged: run `metrics` again") from None
    if cells != {
        cell for variant in plan.variants for dataset in plan.datasets for cell in plan.cells(variant, dataset)
    }:
        raise SgaError(f"{path} is of another plan: run `metrics` again")
    return scores


def _scores(content: Mapping[str, Any]) -> Scores:
    """Raises one of many errors where the content is not as `save` wrote it."""
    cells = [Cell(d, v, p - 1, s) for d, v, p, s, *_ in content["rows"]]
    values = {
        column: {cell: float(row[4 + place]) for cell, row in zip(cells, content["rows"], strict=True)}
        for place, column in enumerate(content["columns"])
    }
    copies = tuple((Cell(d, v, p - 1, s), name, int(n)) for d, v, p, s, name, n in content["near_copies"])
    return Scores(tuple(values), values, copies, tuple(content["backbones"]), tuple(content["warnings"]))
