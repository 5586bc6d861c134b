"""Several detectors, one after the other: where one is silent, the next is asked."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sga_kohya.hsd.detect import Detection, Detector, View, means_of


class Chain:
    """For each level its own detectors, in the order in which they are asked."""

    def __init__(self, by_level: Mapping[str, Sequence[Detector]]) -> None:
        self._by_level = by_level
        members = {id(detector): detector for detectors in by_level.values() for detector in detectors}
        self._members = list(members.values())
        self.name = ",".join(detector.name for detector in self._members)

    @property
    def unanswered(self) -> set[str]:
        """The sources of the photos that one of them failed at: what the others found there does not finish them."""
        return {source for detector in self._members for source in getattr(detector, "unanswered", ())}

    @property
    def means(self) -> str:
        """Of each of them that has some of its own."""
        return ", ".join(f"{one.name}: {means_of(one)}" for one in self._members if means_of(one))

    def detect(self, views: Sequence[View], level: str) -> list[list[Detection]]:
        """Of each view what the first detector found that found anything in it, with its name."""
        results: list[list[Detection]] = [[] for _ in views]
        silent = list(range(len(views)))
        for detector in self._by_level[level]:
            if not silent:
                break
            found = detector.detect([views[i] for i in silent], level)
            for i, detections in zip(silent, found, strict=True):
                results[i] = [replace(detection, found_by=detector.name) for detection in detections]
            silent = [i for i in silent if not results[i]]
        return results
