"""concepts.json: the exported folders as OneTrainer's concepts."""

from pathlib import Path

from sga_kohya.hsd.out.exports.export import HEADER, Dataset, Export, Level, quoted
from sga_kohya.kit.sealed import sealed_json

_VERSION = 2
"""Of a concept; an older one would be migrated."""


def concepts(dataset: Dataset) -> str:
    return sealed_json(HEADER, [_concept(level) for level in dataset.present])


def _concept(level: Level) -> dict[str, object]:
    """What is not named stays at OneTrainer's defaults."""
    return {
        "__version": _VERSION,
        "name": level.name,
        "path": str(level.folder),
        "balancing": float(level.repeats),
        "balancing_strategy": "REPEATS",
        "image": {
            "__version": 0,
            "enable_crop_jitter": False,
            "enable_resolution_override": True,
            "resolution_override": str(level.side),
        },
        "text": {"__version": 0, "prompt_source": "sample"},
    }


def _use(file: Path, masked: bool) -> list[str]:
    line = f'"concept_file_name": {quoted(file)} in its configuration'
    # Other trainers would take these for images of their own.
    note = "masks do not go along: it seeks them as STEM-masklabel.png among the slices, so all of each slice counts"
    return [line, note] if masked else [line]


ONETRAINER = Export(
    name="onetrainer",
    trainer="OneTrainer",
    file="concepts.json",
    write=concepts,
    use=_use,
    gets="a concept for each level",
    loses="noise levels by granularity, tuples and Eq. 6; slices are cut to its aspects, at a level's median area",
)
