"""multidatabackend.json: the exported folders as SimpleTuner reads them, one dataset a level with its own noise offset.

SimpleTuner names a latent's cache by the SHA-256 of the image's stem and writes an index of sizes beside the images;
both would outlive a slice that was cut again. A slice's mask it seeks in a dataset of masks, by the slice's whole file
name: those of JPEG and WebP slices, which are PNG, it would not find.
"""

import hashlib
from pathlib import Path

from sga_kohya.hsd.out.exports.export import HEADER, Caches, Dataset, Export, Level, quoted
from sga_kohya.kit.pictures import is_picture
from sga_kohya.kit.sealed import sealed_json

CACHE = "cache_simpletuner"
_ID = "sga-"


def multidatabackend(dataset: Dataset) -> str:
    cache = dataset.out / CACHE
    text = {
        "id": f"{_ID}text",
        "type": "local",
        "dataset_type": "text_embeds",
        "default": True,
        "cache_dir": str(cache / "text"),
    }
    masked = [level for level in dataset.present if level.masks and dataset.png]
    images = [_backend(level, cache) | (_masked(level) if level in masked else {}) for level in dataset.present]
    return sealed_json(HEADER, [*images, *map(_masks, masked), text])


def caches_by_stem(out: Path) -> Caches:
    found = {}
    for folder in (out / CACHE).glob("*"):
        index = f"aspect_ratio_bucket_*_{_ID}*.json"
        # Also beside the masks of these slices, whose folder ends in the name of theirs.
        indices = sorted((*out.glob(f"{folder.name}/{index}"), *out.glob(f"*_{folder.name}/{index}")))
        for slice_file in filter(is_picture, (out / folder.name).glob("*")):
            cache = folder / f"{hashlib.sha256(slice_file.stem.encode()).hexdigest()}.pt"
            found[f"{folder.name}/{slice_file.stem}"] = [cache, *indices]
    return found


def _backend(level: Level, cache: Path) -> dict[str, object]:
    return {
        "id": f"{_ID}{level.name}",
        "type": "local",
        "dataset_type": "image",
        "instance_data_dir": str(level.folder),
        "caption_strategy": "textfile",
        "cache_dir_vae": str(cache / level.folder.name),
        # Not kohya's count: 0 is once an epoch.
        "repeats": level.repeats - 1,
        "timestep_sampling_offset": level.offset,
        **_sizes(level),
    }


def _masked(level: Level) -> dict[str, object]:
    return {"conditioning_data": f"{_ID}{level.name}-masks"}


def _masks(level: Level) -> dict[str, object]:
    """Sized as the slices, whose metadata it copies."""
    return {
        "id": f"{_ID}{level.name}-masks",
        "type": "local",
        "dataset_type": "conditioning",
        "conditioning_type": "mask",
        "source_dataset_id": f"{_ID}{level.name}",
        "instance_data_dir": str(level.masks),
        **_sizes(level),
    }


def _sizes(level: Level) -> dict[str, object]:
    return {
        "metadata_backend": "discovery",
        "crop": False,
        "resolution": level.side,
        "resolution_type": "pixel_area",
    }


def _use(file: Path, masked: bool) -> list[str]:
    line = f'"data_backend_config": {quoted(file)} in its config.json'
    note = "masks go along where they lie beside PNG slices; it takes none from transparency or for other formats"
    return [line, note] if masked else [line]


SIMPLETUNER = Export(
    name="simpletuner",
    trainer="SimpleTuner",
    file="multidatabackend.json",
    write=multidatabackend,
    use=_use,
    gets="noise levels by granularity for flow-matching models, in its default schedule",
    loses="tuples and Eq. 6; a beta, uniform or fast schedule has no offsets; a level's slices get its median area",
    caches=caches_by_stem,
    cache_folder=CACHE,
)
