"""Seam: the host's dataset yields whole tuple steps.

`generate_dataset_group_by_blueprint` makes the datasets of every script. Training sees cache files only; which image a
cache was made of, and so its granularity and group, is found through the source that the dataset still names. Items are
loaded by the host's own batch manager: a sub-batch is written where it looks for a bucket.
"""

import functools
import itertools
import random
import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sga_kohya.config import SgaConfig
from sga_kohya.errors import SgaError
from sga_kohya.granularity import Identifier, Identity
from sga_kohya.hosts.dataset import HostDataset, StockOrder
from sga_kohya.hosts.musubi.families import Family
from sga_kohya.hosts.musubi.sources import excerpts, out_of_step, sources_of
from sga_kohya.hosts.seam import Seam
from sga_kohya.kit.safetensors_file import tensor_shapes
from sga_kohya.training.dataset import Measure
from sga_kohya.training.session import Session
from sga_kohya.tuples.contents import Contents, sample_of
from sga_kohya.tuples.groups import Cell
from sga_kohya.tuples.step import Slice, SubBatch
from sga_kohya.words import ATTRIBUTE

Items = dict[str, tuple[Any, Any, int]]
"""Key -> (bucket, the host's item, repeats). A bucket begins with width, height and frames in pixels."""
_LATENTS = re.compile(r"latents_(?:(\d+)x)?(\d+)x(\d+)_")
"""What a cache calls the latents that train: frames, where the family has them, height, width."""


def _replace(original: Callable, session: Session, family: Family) -> Callable:
    @functools.wraps(original)
    def generate_dataset_group_by_blueprint(dataset_group_blueprint: Any, *args: Any, **kwargs: Any) -> Any:
        group = original(dataset_group_blueprint, *args, **kwargs)
        training = kwargs.get("training", args[0] if args else False)
        if not training:
            return group  # the scripts that cache
        if not group.num_train_items:
            raise SgaError(
                "no training items: cache latents and text first, by the family's *_cache_latents.py and "
                "*_cache_text_encoder_outputs.py with this dataset_config"
            )
        dataset = (TunerDataset if session.config.tuples else StockOrderDataset)(group, session.config, family)
        session.has_data(dataset)
        return dataset

    return generate_dataset_group_by_blueprint


class TunerDataset(HostDataset):
    """A host's DatasetGroup whose items have a granularity and a group."""

    def __init__(self, group: Any, config: SgaConfig, family: Family):
        self.group, self.family = group, family
        self.items = [_items(dataset) for dataset in group.datasets]
        identifier = Identifier(config.granularities, config.manifest)
        self.identities = _identify(group.datasets, self.items, identifier)
        batch_sizes = [dataset.batch_size for dataset in group.datasets]
        super().__init__(self._slices(), batch_sizes, config, group.datasets[0].seed, identifier.metadata())
        self._levels: tuple[int, list[float], list[int]] | None = None
        self._drawn: Iterator[float] = iter(())

    def _slices(self) -> list[tuple[Slice, str | None]]:
        return [
            (Slice(number, key, self.identities[number][key].granularity, bucket), self.identities[number][key].group)
            for number, items in enumerate(self.items)
            for key, (bucket, _, repeats) in items.items()
            for _ in range(repeats)
        ]

    def begin_step(self, epoch: int, position: int) -> None:
        """Timesteps for num_timestep_buckets are drawn for the whole epoch, equally many in each part of the range."""
        parts = self.group.datasets[0].batch_manager.num_timestep_buckets
        if parts is None or parts < 2:
            return
        if self._levels is None or self._levels[0] != epoch:
            sizes = [sum(len(part.keys) for part in step) for step in self._steps]
            starts = list(itertools.accumulate(sizes, initial=0))
            self._levels = epoch, _stratified(starts[-1], parts, f"{self.seed}/{epoch}"), starts
        _, levels, starts = self._levels
        self._drawn = iter(levels[starts[position] : starts[position + 1]])

    def load(self, sub_batch: SubBatch) -> Any:
        manager = self.group.datasets[sub_batch.dataset].batch_manager
        items = self.items[sub_batch.dataset]
        bucket = items[sub_batch.keys[0]][0]
        manager.buckets = {bucket: [items[key][1] for key in sub_batch.keys]}
        manager.bucket_batch_indices = [(bucket, 0)]
        drawn = [level for _, level in zip(sub_batch.keys, self._drawn, strict=False)]
        manager.timestep_pool = [drawn] if drawn else None
        return manager[0]

    def _known(self) -> Iterator[tuple[Any, list[Any]]]:
        """Each of the host's datasets with its items."""
        for dataset, items in zip(self.group.datasets, self.items, strict=True):
            yield dataset, [item for _, item, _ in items.values()]

    def notes(self) -> Iterator[str]:
        return excerpts(self._known()) if self.planned else iter(())

    def warnings(self) -> Iterator[str]:
        for dataset, items in self._known():
            yield from out_of_step(dataset, items, self.labels)

    def measure(self, cell: Cell) -> Measure | None:
        return self._measures.get((cell.dataset, cell.bucket))

    @functools.cached_property
    def _measures(self) -> dict[tuple[int, Hashable], Measure]:
        """By dataset and bucket, of which one cache each tells.

        By the shape in its header: FramePack trains on sections of a clip, which are as long as its window.
        """
        first = {
            (number, bucket): item for number, items in enumerate(self.items) for bucket, item, _ in items.values()
        }
        return {cell: measure for cell, item in first.items() if (measure := self._measured(cell[1], item))}

    def _measured(self, bucket: tuple, item: Any) -> Measure | None:
        for name in tensor_shapes(Path(_key(item))):
            if found := _LATENTS.match(name):
                frames, height, width = (int(side or 1) for side in found.groups())
                return Measure(bucket[0], bucket[1], bucket[2], self.family.tokens(frames, height, width))
        return None

    def contents(self) -> Contents:
        return self._contents

    @functools.cached_property
    def _contents(self) -> Contents:
        """The caches, which are all that is read: an image or a caption that was edited is another one's by then."""
        caches = (item for items in self.items for _, item, _ in items.values())
        files = (file for item in caches for file in (item.latent_cache_path, item.text_encoder_output_cache_path))
        return dict(sample_of(Path(file), None) for file in files)

    def set_current_epoch(self, epoch: int) -> None:
        """Called by the host's collator, too late for the epoch's first items; theirs came with their index."""


class StockOrderDataset(StockOrder, TunerDataset):
    """Without tuples; see StockOrder."""

    def keys_of(self, dataset: int, place: int) -> tuple[str, ...]:
        manager = self.group.datasets[dataset].batch_manager
        bucket, number = manager.bucket_batch_indices[place]
        return tuple(map(_key, manager.buckets[bucket][number * manager.batch_size :][: manager.batch_size]))

    def set_current_epoch(self, epoch: int) -> None:
        self.group.set_current_epoch(epoch)


def _items(dataset: Any) -> Items:
    """Sorted: the host's own order is that of the disk."""
    found: Items = {}
    for bucket, items in dataset.batch_manager.buckets.items():
        for item in items:
            repeats = found[_key(item)][2] if _key(item) in found else 0
            found[_key(item)] = (_bucket(bucket, item), item, repeats + 1)
    return dict(sorted(found.items()))


def _bucket(bucket: tuple[Any, ...], item: Any) -> tuple[Any, ...]:
    """Width, height, frames, and for images what else must agree for the host to stack them.

    A clip was cached at the size in its file's name. The bucket that the host finds for it in training may be another
    one, because enable_bucket and bucket_no_upscale count in training alone; an image's own third number is none of
    frames.
    """
    if item.frame_count is not None:
        return (*item.original_size, item.frame_count)
    return (*bucket[:2], 1, *bucket[2:])


def _key(item: Any) -> str:
    return str(item.latent_cache_path)


def _identify(datasets: Sequence[Any], items: Sequence[Items], identifier: Identifier) -> list[dict[str, Identity]]:
    """For each dataset, the identity of each item. A JSONL row may say its granularity and its group itself.

    Of all datasets at once: each level is one here, and which files of a name are siblings is seen beside the others. A
    row's group is that of the files with this stem, so that clips of a JSONL file and images of a folder may share one.
    """
    places = [
        (number, key, source)
        for number, (dataset, known) in enumerate(zip(datasets, items, strict=True))
        for key, source in sources_of(dataset, {key: item for key, (_, item, _) in known.items()})
    ]
    identities = identifier.identify((path, {ATTRIBUTE: row.get(ATTRIBUTE)}) for _, _, (path, row) in places)
    found: list[dict[str, Identity]] = [{} for _ in datasets]
    for (number, key, (_, row)), identity in zip(places, identities, strict=True):
        found[number][key] = _named_by(row, identity)
    return found


def _named_by(row: Mapping[str, Any], identity: Identity) -> Identity:
    named = "group" in row and identity.granularity is not None
    return Identity(identity.granularity, str(row["group"])) if named else identity


def _stratified(total: int, parts: int, seed: str) -> list[float]:
    """Numbers in [0, 1), equally many in each of `parts` equal intervals, in random order."""
    rng = random.Random(seed)
    levels = [(index % parts + rng.random()) / parts for index in range(-(-total // parts) * parts)]
    rng.shuffle(levels)
    return levels[:total]


def seam(family: Family) -> Seam:
    return Seam(
        "dataset",
        "musubi_tuner.dataset.config_utils.generate_dataset_group_by_blueprint",
        ("dataset_group_blueprint", "training", "num_timestep_buckets", "shared_epoch"),
        functools.partial(_replace, family=family),
    )
