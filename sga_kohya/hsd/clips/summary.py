"""What a run made of clips, for a person to read: beside what `out/summary.py` says of photos."""

from collections.abc import Iterator

from sga_kohya.hsd.clips.tally import ClipTally
from sga_kohya.hsd.cut.choosing import DUPLICATE, SURPLUS
from sga_kohya.hsd.masks.sources import NONE
from sga_kohya.hsd.out.manifest import NEAR_DUPLICATE
from sga_kohya.hsd.out.tally import Tally
from sga_kohya.hsd.settings.config import HsdConfig
from sga_kohya.kit.text import counted
from sga_kohya.words import DEFAULT_SHIFTS

TELL = "the trainer has no Delta for them: "
"""Labels of which nobody has measured one."""


def table(film: ClipTally | None) -> Iterator[str]:
    """A line for each label, below one for all."""
    if film is None:
        return
    reused = f"; {film.reused} were finished before" if film.reused else ""
    yield f"clips    {film.photos} found, {film.used} used, {film.photos - film.used} skipped{reused}"
    yield ""
    yield f"{'label':<14}{'slices':>8}{'dropped':>9}{'upscaled':>10}  most common size, frames"
    for name, level in film.levels.items():
        share = f"{level.upscaled / level.kept:.0%}" if level.kept else "-"
        common = "{}x{}".format(*level.sizes.most_common(1)[0][0]) if level.sizes else "-"
        frames = ", ".join(f"{count} ({n})" for count, n in film.lengths(name).most_common(3)) or "-"
        yield f"{name:<14}{level.kept:>8}{level.dropped - level.spare:>9}{share:>10}  {common}, {frames}"
    yield ""
    counts = ", ".join(f"{count} with K={k}" for k, count in sorted(film.group_sizes.items(), reverse=True))
    yield f"groups   {sum(film.group_sizes.values())} of clips" + (f": {counts}" if counts else "")
    kinds = [(kind, n) for kind, n in film.reasons.most_common() if n and kind not in (DUPLICATE, SURPLUS)]
    if kinds:
        yield "dropped  " + ", ".join(f"{count} {kind}" for kind, count in kinds)
    yield ""


def warnings(film: ClipTally | None, config: HsdConfig) -> Iterator[str]:
    """One sentence each: what is lost or doubtful, and what to do."""
    if film is None:
        return
    for kind, count in sorted(film.lost.items()):
        advice = "; --near_duplicates -1 keeps them" if kind == NEAR_DUPLICATE else ""
        yield f"{counted(count, 'clip was', 'clips were')} skipped, {kind}: {film.some(kind, count)}{advice}"
    for note, count in film.notes.most_common():
        yield f"{counted(count, 'clip')}, {note}: {film.some(note, count)}"
    count = sum(film.guessed.values())
    if count:
        words = ", ".join(f'"{words}" ({clips})' for words, clips in film.guessed.most_common(3))
        yield f"{count} of {film.used} clips have no caption and train on words of their folder or name: {words}"
    if config.masks != NONE and film.used:
        yield f"masks {config.masks}: of photos only, as no trainer of clips reads them: all of each clip counts"


def training(film: ClipTally | None, photos: Tally) -> Iterator[str]:
    """What the training settings have to say of labels that the trainer does not know by itself."""
    tallies = (film, photos) if film else ()
    names = list(dict.fromkeys(name for tally in tallies for name, level in tally.levels.items() if level.kept))
    unknown = [name for name in names if name not in DEFAULT_SHIFTS]
    if unknown:
        shifts = ",".join(f"{name}:{DEFAULT_SHIFTS.get(name, 0):g}" for name in names)
        yield f"for {', '.join(unknown)} {TELL}choose one each, 0 for none, in your.toml or as"
        yield f"  --sga_granularities {','.join(names)} --sga_timestep_shift {shifts}"
