"""Seam: the host's dataset yields whole tuple steps.

`generate_dataset_group_by_blueprint` makes the datasets of every script; its training group is wrapped, its validation
group left alone. Images are still loaded by the host's own `__getitem__`: a sub-batch's keys are written where it looks
for the keys of a bucket, so caches, masks, flips, captions and everything else of the host go on as they are.
"""

import functools
import hashlib
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from sga_kohya.config import SgaConfig
from sga_kohya.errors import SgaError
from sga_kohya.granularity import Identifier, Identity
from sga_kohya.hosts.seam import Seam
from sga_kohya.training.session import Session
from sga_kohya.tuples.contents import Contents, sample_of
from sga_kohya.tuples.loader import EpochSampler, LoadedStep, TupleDataset
from sga_kohya.tuples.planner import Planner, eq_6, form_groups
from sga_kohya.tuples.step import Slice, SubBatch, TupleStep


def _replace(original: Callable, session: Session) -> Callable:
    @functools.wraps(original)
    def generate_dataset_group_by_blueprint(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        group, validation = original(*args, **kwargs)
        if not any(dataset.image_data for dataset in group.datasets):
            raise SgaError("the dataset has no images: put .png, .jpg or .webp files into the folders it names")
        wrapper = TupleDatasetGroup if session.config.tuples else StockOrderGroup
        session.dataset = wrapper(group, session.config)
        session.fire("dataset")
        # The host's dataset viewer shows single batches; it is not training, so it gets what it knows.
        viewing = any(dataset.debug_dataset for dataset in group.datasets)
        return (group if viewing else session.dataset), validation

    return generate_dataset_group_by_blueprint


class HostDatasetGroup(TupleDataset):
    """A host's DatasetGroup whose images have a granularity and a group. Everything not defined here is the host's.

    tuples_per_update: tuple steps of all processes that an optimizer step takes.
    """

    tuples_per_update = 1

    def __init__(self, group: Any, config: SgaConfig):
        super().__init__()
        self.group = group
        identifier = Identifier(config.granularities, config.manifest)
        self.identities = _identify(group, identifier)
        self._manifests = identifier.metadata()
        self.planner = Planner(
            groups=form_groups(self._slices()),
            batch_sizes=[dataset.batch_size for dataset in group.datasets],
            weight=eq_6(config),
            groups_per_step=config.groups_per_step,
            seed=group.datasets[0].seed,
        )

    def __getattr__(self, name: str) -> Any:
        # Through __dict__, because unpickling asks for attributes before there are any.
        if "group" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.__dict__["group"], name)

    def metadata(self) -> dict[str, str]:
        """What the data were, for a saved model's header."""
        return {**self.planner.metadata(), **self._manifests}

    def contents(self) -> Contents:
        return self._contents

    @functools.cached_property
    def _contents(self) -> Contents:
        """Captions as the host has read them; the files' sizes and dates when this is first asked for."""
        return dict(
            sample_of(_file(info, dataset.image_to_subset[key]), getattr(info, "caption", None))
            for dataset in self.group.datasets
            for key, info in dataset.image_data.items()
        )

    def _slices(self) -> list[tuple[Slice, str | None]]:
        return [
            (Slice(index, key, identity.granularity, info.bucket_reso), identity.group)
            for index, (dataset, identities) in enumerate(zip(self.group.datasets, self.identities, strict=True))
            for (key, info), identity in zip(dataset.image_data.items(), identities.values(), strict=True)
            for _ in range(info.num_repeats)
        ]


class TupleDatasetGroup(HostDatasetGroup):
    """Item (epoch, i) is a tuple step."""

    def __len__(self) -> int:
        return len(self.planner)

    @property
    def seed(self) -> int:  # type: ignore[override]
        """The plan's; a resumed run takes that of its state."""
        return self.planner.seed

    @seed.setter
    def seed(self, value: int) -> None:
        self.planner.seed = value

    def facts(self) -> dict[str, str]:
        return self._facts

    @functools.cached_property
    def _facts(self) -> dict[str, str]:
        """Every saved state asks for them, and they do not change."""
        planner = self.planner
        # Names without folders, because a dataset that was moved is still the same.
        slices = [
            [(item.granularity, item.dataset, item.bucket, Path(item.key).name) for item in group]
            for group in planner.groups
        ]
        return {
            "groups": str(len(planner.groups)),
            "slices": hashlib.sha256(repr(slices).encode()).hexdigest()[:16],
            "batch sizes": ",".join(map(str, planner.batch_sizes)),
            "groups a step": str(planner.groups_per_step or "as batch size"),
        }

    def plan(self, epoch: int) -> list[TupleStep]:
        return self.planner.epoch(epoch)

    def begin_step(self, epoch: int, position: int) -> None:
        # The host's own count of steps reaches a worker late, and begins at zero when resuming.
        step = ((epoch - 1) * len(self) + position) // self.tuples_per_update
        for dataset in self.group.datasets:
            dataset.current_epoch = epoch  # read by caption_dropout_every_n_epochs
            dataset.current_step = step  # read by token_warmup_step

    def load(self, sub_batch: SubBatch) -> Any:
        dataset = self.group.datasets[sub_batch.dataset]
        index_type = type(dataset.buckets_indices[0])
        dataset.bucket_manager.buckets = [list(sub_batch.keys)]
        dataset.buckets_indices = [index_type(bucket_index=0, bucket_batch_size=len(sub_batch.keys), batch_index=0)]
        return dataset[0]

    def sampler(self, loader: DataLoader) -> EpochSampler:
        epoch = getattr(loader.collate_fn, "current_epoch", None)
        if epoch is None:
            raise SgaError("this sd-scripts keeps its epoch elsewhere than in collator_class.current_epoch")
        return EpochSampler(len(self), lambda: epoch.value)

    def set_current_epoch(self, epoch: int) -> None:
        """Called by the host's collator, too late for the epoch's first items; theirs came with their index."""

    def set_current_step(self, step: int) -> None:
        """As set_current_epoch."""


class StockOrderGroup(HostDatasetGroup):
    """Without tuples: the host's own batches in its own order, each a step of its own, with granularities known."""

    def __len__(self) -> int:
        return len(self.group)

    def __getitem__(self, index: int) -> LoadedStep:  # type: ignore[override]  # the host's sampler knows no epochs
        number = bisect_right(self.group.cumulative_sizes, index)
        dataset = self.group.datasets[number]
        place = dataset.buckets_indices[index - (self.group.cumulative_sizes[number - 1] if number else 0)]
        start = place.batch_index * place.bucket_batch_size
        keys = tuple(dataset.bucket_manager.buckets[place.bucket_index][start : start + place.bucket_batch_size])
        identities = self.identities[number]
        sub_batch = SubBatch(number, keys, tuple(identities[key].granularity for key in keys), groups=len(keys))
        return LoadedStep([(sub_batch, self.group[index])])


def _identify(group: Any, identifier: Identifier) -> list[dict[str, Identity]]:
    """For each dataset, the identity of each image by the host's key. Regularisation images take no part."""
    images = [
        (index, key, info, dataset.image_to_subset[key])
        for index, dataset in enumerate(group.datasets)
        for key, info in dataset.image_data.items()
    ]
    known = identifier.identify((_file(info, subset), subset.custom_attributes or {}) for _, _, info, subset in images)
    found: list[dict[str, Identity]] = [{} for _ in group.datasets]
    for (index, key, info, _), identity in zip(images, known, strict=True):
        found[index][key] = Identity(None, None) if info.is_reg else identity
    return found


def _file(info: Any, subset: Any) -> Path:
    """The image's own path. With a metadata file and cached latents the host keeps only the cache's."""
    path = Path(info.absolute_path)
    return Path(subset.image_dir or "", info.image_key) if path.suffix == ".npz" else path


SEAM = Seam(
    "dataset",
    "library.config_util.generate_dataset_group_by_blueprint",
    ("dataset_group_blueprint",),
    _replace,
)
