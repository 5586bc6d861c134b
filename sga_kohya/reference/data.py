"""kohya folders as tuple steps: reads the dataset.toml and manifest that `python -m sga_kohya.hsd` writes.

Images must have their final size already; each size is a bucket. Nothing is resized, cropped or flipped.
"""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from sga_kohya.config import SgaConfig
from sga_kohya.errors import SgaError
from sga_kohya.granularity import Identifier
from sga_kohya.kit.fields import Fields
from sga_kohya.kit.pictures import is_picture
from sga_kohya.kit.text import read_text
from sga_kohya.kit.toml_file import listed_tables, read_toml
from sga_kohya.kit.values import Reader, mapping, text, whole
from sga_kohya.reference.latents import Codec
from sga_kohya.reference.text import TextEncoder
from sga_kohya.tuples.groups import form_groups
from sga_kohya.tuples.loader import EpochSampler, TupleDataset
from sga_kohya.tuples.planner import Planner, eq_6
from sga_kohya.tuples.step import Slice, SubBatch, TupleStep

# Keys of sd-scripts that change what is trained, and that this trainer has nothing for.
_ELSEWHERE = [
    "flip_aug",
    "color_aug",
    "random_crop",
    "face_crop_aug_range",
    "caption_dropout_rate",
    "caption_dropout_every_n_epochs",
    "caption_tag_dropout_rate",
    "shuffle_caption",
    "caption_prefix",
    "caption_suffix",
    "enable_wildcard",
    "token_warmup_step",
    "is_reg",
    "alpha_mask",
    "conditioning_data_dir",
    "metadata_file",
]

_READ: dict[str, dict[str, Reader[Any]]] = {
    "datasets": {"batch_size": whole(1)},
    "subsets": {
        "image_dir": text,
        "num_repeats": whole(1),
        "caption_extension": text,
        "class_tokens": text,
        "custom_attributes": mapping,
    },
}

# What Pillow raises for a file that is none of a picture's, or damaged, or a bomb.
_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


class SliceDataset(TupleDataset):
    """The slices of a dataset.toml. Item (epoch, i) is a tuple step, or without tuples one plain batch.

    batch_size: instead of the TOML's. Raises SgaError naming the file or folder that cannot be used.
    """

    def __init__(self, dataset_config: Path, config: SgaConfig, batch_size: int | None = None, seed: int = 0):
        super().__init__()
        self.tuples = config.plans_tuples
        self.seed = seed
        self.captions: dict[str, str] = {}
        self.sizes: dict[str, tuple[int, int]] = {}
        self.batch_sizes: list[int] = []
        self.epoch, self.start = 0, 0
        found: list[tuple[int, Path, dict[str, Any]]] = []
        for number, (size, subsets) in enumerate(_read_toml(dataset_config)):
            self.batch_sizes.append(batch_size or size)
            for subset in subsets:
                for path in _images(dataset_config, subset):
                    self.captions[str(path)], self.sizes[str(path)] = _caption(path, subset), _size(path)
                    found += [(number, path, subset.get("custom_attributes", {}))] * int(subset.get("num_repeats", 1))
        if not found:
            raise SgaError(f"{dataset_config}: its folders hold no images; make them by `python -m sga_kohya.hsd`")
        identifier = Identifier(config.granularities, config.manifest)
        identities = identifier.identify((path, attributes) for _, path, attributes in found)
        named = [
            (Slice(number, str(path), identity.granularity, self.sizes[str(path)]), identity.group)
            for (number, path, _), identity in zip(found, identities, strict=True)
        ]
        self.slices = [item for item, _ in named]
        self.planner = Planner(
            groups=form_groups(named),
            batch_sizes=self.batch_sizes,
            weight=eq_6(config),
            groups_per_step=config.groups_per_step,
            seed=seed,
        )

    def __len__(self) -> int:
        return len(self.planner) if self.tuples else len(self._plain(0))

    def plan(self, epoch: int) -> Sequence[TupleStep]:
        return self.planner.epoch(epoch) if self.tuples else self._plain(epoch)

    def load(self, sub_batch: SubBatch) -> dict[str, Any]:
        """latents: (B, C, H, W). text: of B captions. Both on the CPU; `encode` comes first."""
        latents = torch.stack([self.latents[key] for key in sub_batch.keys])
        return {"latents": latents, "text": self.text([self.captions[key] for key in sub_batch.keys])}

    @torch.no_grad()
    def encode(self, codec: Codec, text: TextEncoder, device: torch.device, quiet: bool = True) -> None:
        """Let the encoders compute, one after the other on that device, what the network is given of each slice.

        Once, because no epoch changes them, so that the encoders can leave the device. quiet: without progress.
        """
        self.text = text
        text.learn(tqdm(dict.fromkeys(self.captions.values()), "captions", disable=quiet), device)
        with codec.on(device):
            images = tqdm(self.sizes, "images", disable=quiet)
            self.latents = {path: codec.encode(load_image(path)[None])[0].cpu() for path in images}

    def sampler(self, loader: DataLoader) -> EpochSampler:
        return _ResumableSampler(self)

    def seek(self, epoch: int, start: int) -> None:
        """Let the next pass over the loader begin at step `start` of the epoch."""
        self.epoch, self.start = epoch, start

    def check_sizes(self, multiple: int, largest: int | None = None) -> None:
        """Raises SgaError for a slice whose sides the model cannot divide by `multiple`, or has no positions for."""
        for path, (width, height) in self.sizes.items():
            if width % multiple or height % multiple:
                raise SgaError(
                    f"{path} is {width}x{height}: this model needs sides that are multiples of {multiple}; "
                    "make the slices by `python -m sga_kohya.hsd`, which writes exact sizes"
                )
            if largest and max(width, height) > largest:
                raise SgaError(
                    f"{path} is {width}x{height}: this model's positions end at sides of {largest}; "
                    "make smaller slices by `python -m sga_kohya.hsd --resolution`"
                )

    def _plain(self, epoch: int) -> list[TupleStep]:
        """Stock practice: shuffled aspect-ratio buckets, every batch a step of its own."""
        rng = random.Random(f"{self.seed}/{epoch}")
        buckets: dict[Any, list[Slice]] = defaultdict(list)
        for item in rng.sample(self.slices, len(self.slices)):
            buckets[item.dataset, item.bucket].append(item)
        steps: list[TupleStep] = []
        for (number, _), members in buckets.items():
            size = self.batch_sizes[number]
            for batch in (members[at : at + size] for at in range(0, len(members), size)):
                keys, labels = tuple(m.key for m in batch), tuple(m.granularity for m in batch)
                steps.append((SubBatch(number, keys, labels),))
        rng.shuffle(steps)
        return steps


class _ResumableSampler(EpochSampler):
    """An EpochSampler that begins where the dataset was told to `seek`."""

    def __init__(self, dataset: SliceDataset):
        super().__init__(len(dataset), lambda: dataset.epoch)
        self.dataset = dataset

    def __len__(self) -> int:
        return self.length - self.dataset.start

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, start = self.dataset.epoch, self.dataset.start
        return ((epoch, position) for position in range(start, self.length))


def load_image(path: str) -> Tensor:
    """(3, H, W), in [-1, 1]. Raises SgaError for a file that is cut off."""
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from None
    return torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1


def _read_toml(path: Path) -> list[tuple[int, list[dict[str, Any]]]]:
    """(batch size, subsets) of each dataset; a subset inherits from its dataset, that from `general`."""
    what = f"--dataset_config {path}"
    if not path.exists():
        raise SgaError(f"{what}: no such file; make it by `python -m sga_kohya.hsd`")
    content, problems = read_toml(path, what), list[str]()
    general = Fields(content.get("general", {}), f"{what}: [general]", problems).values
    datasets = [{**general, **dataset} for dataset in listed_tables(content, "datasets", what)]
    found = [(d, [{**d, **subset} for subset in listed_tables(d, "subsets", what)]) for d in datasets]
    for dataset, subsets in found:
        Fields(dataset, f"{what}: [[datasets]]", problems).given(_READ["datasets"])
        for subset in subsets:
            Fields(subset, f"{what}: [[datasets.subsets]]", problems).given(_READ["subsets"])
    if problems:
        raise SgaError("; ".join(dict.fromkeys(problems)))
    asked = [key for key in _ELSEWHERE if any(subset.get(key) for _, subsets in found for subset in subsets)]
    if asked:
        raise SgaError(
            f"{what}: {', '.join(asked)} would do nothing here, only in sd-scripts, because this trainer takes slices "
            f"and captions as they are: leave {'them' if len(asked) > 1 else 'it'} out of a copy of the file"
        )
    return [(int(dataset.get("batch_size", 1)), subsets) for dataset, subsets in found]


def _images(dataset_config: Path, subset: dict[str, Any]) -> list[Path]:
    folder = Path(subset.get("image_dir", ""))
    if not folder.is_dir():
        raise SgaError(f"{dataset_config}: image_dir {folder} is no folder; run `python -m sga_kohya.hsd` again")
    return sorted(filter(is_picture, folder.iterdir()))


def _caption(path: Path, subset: dict[str, Any]) -> str:
    file = path.with_suffix(subset.get("caption_extension", ".caption"))
    return read_text(file).strip() if file.is_file() else subset.get("class_tokens", "")


def _size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels, from the file's header."""
    try:
        with Image.open(path) as image:
            return image.size
    except _UNREADABLE as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path | str, error: Exception) -> SgaError:
    return SgaError(f"{path}: not a readable image ({error}); remove it or make it again")
