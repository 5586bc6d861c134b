"""The captions of one photo's slices, made of its rows: whether it was just cut or is taken over from an earlier run.

Whose words a slice gets, the first that there are:
1. a caption that the user has edited in OUT, which no run touches;
2. the captioner's, behind what is kept of the photo's own;
3. the photo's own, less what the slice does not show: where the captioner adds nothing (`inherit`) or gave no answer.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sga_kohya.hsd.captioners.captioner import CAPTIONERS, INHERIT, Captioner, Slice
from sga_kohya.hsd.cut.geometry import Box
from sga_kohya.hsd.detect import Detection
from sga_kohya.hsd.detectors.options import Options
from sga_kohya.hsd.out.manifest import Row
from sga_kohya.hsd.photos.captions import KEEPS, NO_WORDS, Caption, CaptionEvidence, Words, slice_caption
from sga_kohya.hsd.settings.config import HsdConfig
from sga_kohya.kit import values

FAILED = "the captioner gave no answer, the next run asks again"
SILENT = "the captioner has no words for a slice"
NOTES = (FAILED, SILENT)
"""Notes of a photo that are made anew with its captions."""


@dataclass(frozen=True)
class Captioned:
    """text: of a slice. note: one of NOTES, "" where all is well."""

    text: str
    note: str = ""


@dataclass(frozen=True, eq=False)
class Captioning:
    """A captioner, and what of a photo's own caption stands in front of its words: one of KEEPS by level."""

    config: HsdConfig
    captioner: Captioner
    keep: dict[str, str]
    trigger: str

    def of(self, rows: Sequence[Row], caption: Caption, read: Callable[[Row], np.ndarray]) -> list[Captioned]:
        """One for each of these rows of one photo that has a file. caption: the photo's. read: a slice's pixels."""
        slices = [(row, evidence) for row, evidence in _evidence(rows) if row.file]
        own = caption.text if caption.meant else ""
        said = self.captioner.describe([_slice(row, own, read) for row, _ in slices])
        return [
            self._written(row, evidence, caption, words) for (row, evidence), words in zip(slices, said, strict=True)
        ]

    def _written(self, row: Row, evidence: CaptionEvidence, caption: Caption, said: str | None) -> Captioned:
        prefix = next((level.caption_prefix for level in self.config.levels if level.name == row.granularity), "")
        words = NO_WORDS
        if said is not None:
            keep = self.keep.get(row.granularity, KEEPS[0])
            words = Words(" ".join(said.split()), keep, self.trigger, row.label)
        adds = said is not None and self.config.captioner != INHERIT
        # Words of a name are better than none, but a captioner has looked.
        text = "" if adds and not caption.meant else caption.text
        note = FAILED if said is None else SILENT if adds and not words.said else ""
        return Captioned(slice_caption(text, evidence, prefix, self.config.drop_tags, words), note)


def make_captioning(config: HsdConfig, captioner: Captioner | None, photos: Path) -> Captioning:
    """captioner: one that was made of the same settings before. Raises SgaError for options that it cannot use."""
    levels = [level.name for level in config.levels]
    options = Options(config.captioner, config.captioner_options, levels, levels, config.device, kind="captioner")
    whole = KEEPS[0]
    # A finer slice shows a part of what the photo's caption speaks of.
    usual = {level: whole if config.captioner == INHERIT or level == levels[0] else KEEPS[1] for level in levels}
    keep = options.per_level("keep", values.one_of(KEEPS), usual.__getitem__)
    trigger = options.read("trigger", values.text, "")
    return Captioning(config, captioner or CAPTIONERS.make(config.captioner, options, photos), keep, trigger)


def _evidence(rows: Sequence[Row]) -> Iterator[tuple[Row, CaptionEvidence]]:
    """What the rows of one photo tell of each slice."""
    regions: dict[str | None, Row] = {}
    for row in rows:
        regions.setdefault(row.group, row)
    seen = [Detection(Box(*row.box), 1.0, row.granularity, row.label) for row in regions.values() if row.box]
    seen += [Detection(Box(*box), 1.0, "", label) for row in regions.values() for label, box in row.seen]
    for row in rows:
        region = regions[row.group]
        if row.box and region.box:
            yield row, CaptionEvidence(Box(*row.box), Box(*region.box), seen)


def _slice(row: Row, caption: str, read: Callable[[Row], np.ndarray]) -> Slice:
    return Slice(str(row.file), row.granularity, row.source, caption, row.label, lambda: read(row))
