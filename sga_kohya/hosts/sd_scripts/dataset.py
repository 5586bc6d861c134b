"""Seam: the host's dataset yields whole tuple steps.

`generate_dataset_group_by_blueprint` makes the datasets of every script; its training group is wrapped, its validation
group only counted. Images are still loaded by the host's own `__getitem__`: a sub-batch's keys are written where it
looks for the keys of a bucket, so caches, masks, flips, captions and everything else of the host go on as they are.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sga_kohya.config import SgaConfig
from sga_kohya.errors import SgaError
from sga_kohya.granularity import Identifier, Identity, misspelled
from sga_kohya.hosts.dataset import HostDataset, StockOrder
from sga_kohya.hosts.sd_scripts.split import HeldOut, Share, shares, validated
from sga_kohya.hosts.seam import Seam
from sga_kohya.training.session import Session
from sga_kohya.tuples.contents import Contents, sample_of
from sga_kohya.tuples.step import Slice, SubBatch


def _replace(original: Callable, session: Session) -> Callable:
    @functools.wraps(original)
    def generate_dataset_group_by_blueprint(dataset_group_blueprint: Any) -> tuple[Any, Any]:
        config, blueprints = session.config, dataset_group_blueprint.datasets
        session.held_out = HeldOut(Identifier(config.granularities, config.manifest))
        session.held_out.survey(blueprints)
        group, validation = original(session.held_out.announced(dataset_group_blueprint))
        if not any(dataset.image_data for dataset in group.datasets):
            raise SgaError(_no_images(validation))
        held = validation.datasets if validation else []
        _keep_attributes([*blueprints, *(found for _, found in validated(blueprints))], [*group.datasets, *held])
        dataset = (TupleDatasetGroup if config.tuples else StockOrderGroup)(group, config)
        dataset.held_out = shares(blueprints, group.datasets, held)
        session.has_data(dataset)
        # The host's dataset viewer shows single batches; it is not training, so it gets what it knows.
        viewing = any(dataset.debug_dataset for dataset in group.datasets)
        return (group if viewing else dataset), validation

    return generate_dataset_group_by_blueprint


def _no_images(validation: Any) -> str:
    held = sum(len(dataset.image_data) for dataset in validation.datasets) if validation else 0
    if held:
        return (
            f"all {held} images are held out by validation_split, none is left to train on: add a dataset, or lower it"
        )
    return "the dataset has no images: put .png, .jpg or .webp files into the folders it names"


def keeper(dataset: Any) -> Any:
    """Who keeps the images, subsets and batches of a host's dataset: where images have masks, a dataset inside it."""
    return getattr(dataset, "dreambooth_dataset_delegate", dataset)


def _keep_attributes(blueprints: Sequence[Any], datasets: Sequence[Any]) -> None:
    """The host leaves custom_attributes behind when it makes the dataset inside a dataset with mask images."""
    for blueprint, dataset in zip(blueprints, datasets, strict=True):
        if keeper(dataset) is not dataset:
            given = {subset.params.image_dir: subset.params.custom_attributes for subset in blueprint.subsets}
            for subset in keeper(dataset).subsets:
                subset.custom_attributes = given[subset.image_dir] or {}


class HostDatasetGroup(HostDataset):
    """A host's DatasetGroup whose images have a granularity and a group.

    held_out: what validates.
    """

    held_out: Sequence[Share] = ()

    def __init__(self, group: Any, config: SgaConfig):
        self.group = group
        identifier = Identifier(config.granularities, config.manifest)
        self.identities = _identify(group, identifier)
        batch_sizes, seed = [dataset.batch_size for dataset in group.datasets], group.datasets[0].seed
        super().__init__(self._slices(), batch_sizes, config, seed, identifier.metadata())

    @property
    def keepers(self) -> list[Any]:
        """The host's datasets that keep images and subsets, in order."""
        return [keeper(dataset) for dataset in self.group.datasets]

    def load(self, sub_batch: SubBatch) -> Any:
        dataset = self.group.datasets[sub_batch.dataset]
        kept = keeper(dataset)
        index_type = type(kept.buckets_indices[0])
        kept.bucket_manager.buckets = [list(sub_batch.keys)]
        kept.buckets_indices = [index_type(bucket_index=0, bucket_batch_size=len(sub_batch.keys), batch_index=0)]
        return dataset[0]

    def notes(self) -> Iterator[str]:
        """How many images validate."""
        if self.held_out:
            parts = [
                f"{share.images} of {share.of} of dataset {share.dataset} (validation_split {share.split:g})"
                for share in self.held_out
            ]
            total = sum(share.images for share in self.held_out)
            yield f"  held out  {total} images for validation: {', '.join(parts)}"

    def warnings(self) -> Iterator[str]:
        for share in self.held_out:
            yield from share.warnings()
        for dataset in self.keepers:
            for subset in dataset.subsets:
                problem = misspelled(subset.custom_attributes or {}, self.labels)
                if problem:
                    yield f"{subset.image_dir}: custom_attributes: {problem}"
            listed = sum(subset.img_count for subset in dataset.subsets if not getattr(subset, "is_reg", False))
            known = sum(not info.is_reg for info in dataset.image_data.values())
            if listed > known:
                yield f"{listed - known} images share a key with another subset and are lost: give full paths as keys"

    def contents(self) -> Contents:
        return self._contents

    @functools.cached_property
    def _contents(self) -> Contents:
        """Captions as the host has read them; the files' sizes and dates when this is first asked for."""
        return dict(
            sample_of(_file(info, dataset.image_to_subset[key]), getattr(info, "caption", None))
            for dataset in self.keepers
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
    """Sub-batches of the plan, loaded by the host."""

    def begin_step(self, epoch: int, position: int) -> None:
        step = self.update_of(epoch, position)
        for dataset in self.keepers:
            dataset.current_epoch = epoch  # read by caption_dropout_every_n_epochs
            dataset.current_step = step  # read by token_warmup_step

    def set_current_epoch(self, epoch: int) -> None:
        """Called by the host's collator, too late for the epoch's first items; theirs came with their index."""

    def set_current_step(self, step: int) -> None:
        """As set_current_epoch."""

    def set_max_train_steps(self, max_train_steps: int) -> None:
        """Of which token_warmup_step may be a share."""
        for dataset in self.keepers:
            dataset.set_max_train_steps(max_train_steps)


class StockOrderGroup(StockOrder, HostDatasetGroup):
    """Without tuples; see StockOrder."""

    def keys_of(self, dataset: int, place: int) -> tuple[str, ...]:
        one = self.group.datasets[dataset]
        batch = one.buckets_indices[place]
        start = batch.batch_index * batch.bucket_batch_size
        return tuple(one.bucket_manager.buckets[batch.bucket_index][start : start + batch.bucket_batch_size])


def _identify(group: Any, identifier: Identifier) -> list[dict[str, Identity]]:
    """For each dataset, the identity of each image by the host's key. Regularisation images take no part."""
    images = [
        (index, key, info, dataset.image_to_subset[key])
        for index, dataset in enumerate(map(keeper, group.datasets))
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
