"""Seam: the validation split never separates siblings, and each dataset is split as its own settings say.

The host splits each folder by image, so a photo's macro slice could train while its micro slice validates. Here whole
groups change sides. The host asks folder after folder, first for training and then for validation, and what is a group,
and how many make a share, shows only in all of them: so the run's folders are surveyed before the first is split.
"""

import copy
import functools
import os
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sga_kohya.errors import SgaError
from sga_kohya.granularity import Identifier
from sga_kohya.hosts.sd_scripts.folders import Folder
from sga_kohya.hosts.seam import Seam
from sga_kohya.training.session import Session


@dataclass
class HeldOut:
    """Which images of a run validate.

    A side belongs to a group and a split (share and seed): datasets of equal split agree about a folder that they have
    in common, whatever their resolutions, and those of another split are none of their business.
    """

    identifier: Identifier
    masks_validate: bool = False  # whether a validation dataset with mask images is being built; see announced()
    _groups: dict[Path, str] = field(default_factory=dict)
    _sides: dict[tuple[float, int], dict[str, bool]] = field(default_factory=lambda: defaultdict(dict))

    def survey(self, blueprints: Sequence[Any]) -> None:
        """Choose the sides of all images that the host is about to split. blueprints: of its datasets.

        Raises SgaError for a share above 1, which would train on nothing.
        """
        if not any(_splits(blueprint) for blueprint in blueprints):
            return
        subsets = [subset.params for dataset in blueprints if _has_folders(dataset) for subset in dataset.subsets]
        self._identify((file, subset.custom_attributes or {}) for subset in subsets for file in _images(subset))
        for number, dataset in enumerate(blueprints, start=1):
            share, seed = dataset.params.validation_split, dataset.params.validation_seed
            if not share <= 1:
                raise SgaError(
                    f"dataset {number}: validation_split = {share} is more than all: write a share from 0 to 1, "
                    "such as 0.1"
                )
            if _splits(dataset) and _has_folders(dataset):
                own = [subset.params for subset in dataset.subsets if not getattr(subset.params, "is_reg", False)]
                self._choose((file for subset in own for file in _images(subset)), share, seed)

    def validating(self, paths: Sequence[str], split: float, seed: int | None) -> list[bool]:
        """For each image, whether it is held out."""
        files = [_absolute(path) for path in paths]
        self._choose(files, split, seed)  # what the survey did not see: cache_info keeps names that may be out of date
        sides = self._sides[split, seed or 0]
        return [sides[self._group(file)] for file in files]

    def announced(self, blueprint: Any) -> Any:
        """The same blueprint of a group of datasets, which tells us which of its datasets the host is building.

        The host calls all datasets with mask images training datasets, and would validate on what it trains on.
        """
        told = copy.copy(blueprint)
        told.datasets = _Announcing(blueprint.datasets, self)
        return told

    def _identify(self, images: Iterable[tuple[Path, Any]]) -> None:
        """Groups as training knows them. An image without a granularity stays with slices of its name beside it."""
        images = list(images)
        identities = self.identifier.identify(images)
        beside: dict[tuple[Path, str], str] = {}
        for (file, _), identity in zip(images, identities, strict=True):
            if identity.group is not None:
                self._groups[file] = beside[self._place(file)] = identity.group
        for (file, _), identity in zip(images, identities, strict=True):
            if identity.group is None:
                self._groups[file] = beside.get(self._place(file), str(file))

    def _place(self, file: Path) -> tuple[Path, str]:
        return file.parent.parent, self.identifier.bare_stem(file)

    def _group(self, file: Path) -> str:
        return self._groups.get(file, str(file))

    def _choose(self, files: Iterable[Path], split: float, seed: int | None) -> None:
        """Hold out a share of the groups that have no side yet: exact for all of them, and fair to each of their kinds.

        A kind are groups from the same folders: subjects of a dataset, and photos that have or lack a level.
        """
        sides = self._sides[split, seed or 0]
        folders: dict[str, set[str]] = defaultdict(set)
        for file in files:
            if self._group(file) not in sides:
                folders[self._group(file)].add(str(file.parent))
        kinds: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for group, where in folders.items():
            kinds[tuple(sorted(where))].append(group)
        met = 0
        for _, groups in sorted(kinds.items()):
            count = round((met + len(groups)) * split) - round(met * split)
            met += len(groups)
            groups.sort(key=lambda group: (_lot(group, seed), group))
            sides.update({group: index < count for index, group in enumerate(groups)})


class _Announcing(list):
    """Blueprints of datasets. The host goes through them once for training, and a second time for validation."""

    def __init__(self, blueprints: Iterable[Any], held_out: HeldOut):
        super().__init__(blueprints)
        self.held_out = held_out
        self.rounds = 0

    def __iter__(self) -> Iterator[Any]:
        self.rounds += 1
        for blueprint in super().__iter__():
            self.held_out.masks_validate = self.rounds > 1 and blueprint.is_controlnet
            yield blueprint


def _splits(blueprint: Any) -> bool:
    return not blueprint.params.validation_split <= 0  # so that "not a number" is seen too


def _has_folders(blueprint: Any) -> bool:
    """The host does not split what a metadata file describes."""
    return blueprint.is_dreambooth or blueprint.is_controlnet


def _images(subset: Any) -> list[Path]:
    """subset: parameters of its blueprint."""
    return [_absolute(file) for file in Folder("image_dir", Path(subset.image_dir)).images()]


def _absolute(path: str | Path) -> Path:
    return Path(os.path.abspath(path))


def _lot(group: str, seed: int | None) -> float:
    """The lower, the sooner held out. By name without folders, so that a dataset that was moved is split the same."""
    return random.Random(f"{seed or 0}/{Path(group.rpartition('::')[2]).name}").random()


@dataclass(frozen=True)
class Share:
    """What of a dataset validates. dataset: its number, from 1. images, of: how many, of how many. trained: of the
    held-out images, those that some dataset trains on all the same."""

    dataset: int
    split: float
    images: int
    of: int
    trained: int

    def warnings(self) -> Iterator[str]:
        if not self.images:
            yield f"dataset {self.dataset}: validation_split {self.split:g} of its few groups holds out no image"
        if self.trained:
            yield (
                f"dataset {self.dataset}: {self.trained} of {self.images} held-out images are trained on as well. "
                "A dataset with the same folder needs the same validation_split and validation_seed; sd-scripts does "
                "not split what a metadata_file describes; and with sga_tuples=false it splits by itself"
            )


def shares(blueprints: Iterable[Any], training: Sequence[Any], validation: Sequence[Any]) -> list[Share]:
    """One for each dataset that is split, in order. The others are the host's datasets, built from these blueprints."""
    trains = [_files(dataset) for dataset in training]
    trained = set().union(*trains)
    split = [(number, blueprint.params.validation_split) for number, blueprint in enumerate(blueprints)]
    validates = [(number, share) for number, share in split if 0 < share <= 1]
    return [
        Share(number + 1, share, len(held), len(held | trains[number]), len(held & trained))
        for (number, share), held in zip(validates, map(_files, validation), strict=True)
    ]


def _files(dataset: Any) -> set[Path]:
    return {_absolute(info.absolute_path) for info in dataset.image_data.values() if not info.is_reg}


def _replace(original: Callable, session: Session) -> Callable:
    @functools.wraps(original)
    def split_train_val(
        paths: Sequence[str],
        sizes: Sequence[Any],
        is_training_dataset: bool,
        validation_split: float,
        validation_seed: int | None,
    ) -> tuple[list[str], list[Any]]:
        held_out = session.held_out
        if held_out is None:
            raise SgaError(
                "this sd-scripts splits images elsewhere than in library.config_util: use a tested version, or leave "
                "validation_split out"
            )
        wanted = not is_training_dataset or held_out.masks_validate
        validating = held_out.validating(paths, validation_split, validation_seed)
        chosen = [i for i, validates in enumerate(validating) if validates == wanted]
        return [paths[i] for i in chosen], [sizes[i] for i in chosen]

    return split_train_val


SEAM = Seam(
    "validation split",
    "library.train_util.split_train_val",
    ("paths", "sizes", "is_training_dataset", "validation_split", "validation_seed"),
    _replace,
)
