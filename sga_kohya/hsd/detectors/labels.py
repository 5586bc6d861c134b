"""Which classes or phrases make a slice of which level, where the user does not say."""

from collections.abc import Mapping, Sequence

from sga_kohya.errors import SgaError
from sga_kohya.hsd.detectors.options import Options
from sga_kohya.hsd.roles import role_of
from sga_kohya.kit.values import names

PHRASES = {
    "macro": ("person", "animal", "whole object"),
    "meso": ("upper body", "torso"),
    "micro": ("face", "head", "hand"),
}
"""For detectors that look for any phrase."""

CLASSES = {
    "macro": ("person", "full body", "whole object"),
    "meso": ("upper body", "half body", "halfbody", "torso", "person"),
    "micro": ("face", "head", "hand", "foot", "eye"),
}
"""For detectors with fixed classes: those that the model knows."""


def by_rank(defaults: Mapping[str, Sequence[str]], level: str, levels: Sequence[str]) -> tuple[str, ...]:
    """The defaults of a level: by its name, else those of macro for the first, of micro for the last level."""
    return tuple(defaults[role_of(level, levels)])


def phrases(options: Options) -> dict[str, tuple[str, ...]]:
    """The option `labels` of an open vocabulary."""
    return options.per_level("labels", names, lambda level: by_rank(PHRASES, level, options.levels))


class ClassChoice:
    """The option `labels` of a closed vocabulary, which is checked when the model's classes are known."""

    def __init__(self, options: Options) -> None:
        self.detector, self.levels = options.detector, options.levels
        self.given = options.per_level("labels", names, lambda level: ())

    def of(self, level: str, classes: Sequence[str], only_this_level: bool = False) -> frozenset[str]:
        """The classes that make a slice of `level`, spelled as the model spells them.

        Those given; else those of CLASSES that the model knows; else all classes for a coarsest or middle level, and
        of a model given for this level alone. Raises SgaError for a finest level of which the model knows nothing.
        """
        known = {_plain(name): name for name in classes}
        wanted = self.given[level]
        if "*" in wanted:
            return frozenset(classes)
        if wanted:
            unknown = [name for name in wanted if _plain(name) not in known]
            if unknown:
                raise self._error(f"labels.{level} {', '.join(unknown)}: no class of the model", classes)
            return frozenset(known[_plain(name)] for name in wanted)
        defaults = by_rank(CLASSES, level, self.levels)
        found = frozenset(known[_plain(name)] for name in defaults if _plain(name) in known)
        if found:
            return found
        if only_this_level or level != self.levels[-1]:
            return frozenset(classes)
        reason = (
            f"the model knows none of {', '.join(defaults)} for level {level}: give labels.{level}=CLASS,CLASS, or "
            f"another model by model.{level}=FILE, or leave the level out of --levels"
        )
        raise self._error(reason, classes)

    def _error(self, reason: str, classes: Sequence[str]) -> SgaError:
        shown = ", ".join(classes[:12]) + (f", … {len(classes)} in all" if len(classes) > 12 else "")
        return SgaError(f"detector {self.detector}: {reason}; its classes: {shown}")


def _plain(name: str) -> str:
    return name.casefold().replace("_", " ").replace("-", " ").strip()
