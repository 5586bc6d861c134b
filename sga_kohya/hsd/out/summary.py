"""What a run made, for a person to read: a table, warnings with what to do, the next command."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from sga_kohya.hsd.clips import summary as clips
from sga_kohya.hsd.clips.levels import of_clips
from sga_kohya.hsd.cut.choosing import DUPLICATE, SURPLUS
from sga_kohya.hsd.masks.sources import ALPHA, NONE
from sga_kohya.hsd.memory import shown_size
from sga_kohya.hsd.out.exports import wanted
from sga_kohya.hsd.out.files import MASKS
from sga_kohya.hsd.out.manifest import NEAR_DUPLICATE, UNREADABLE_CAPTION, UNREADABLE_MASK
from sga_kohya.hsd.out.report import REPORT
from sga_kohya.hsd.out.tally import LONG, NAMED, LevelTally, Tally
from sga_kohya.hsd.photos.finding import Found
from sga_kohya.hsd.photos.images import LAID
from sga_kohya.hsd.review.decisions import Decisions
from sga_kohya.hsd.run import Result
from sga_kohya.hsd.settings.config import HsdConfig, LevelConfig
from sga_kohya.kit.pictures import CLIPS, RAW, is_clip, is_picture
from sga_kohya.kit.text import counted, safe
from sga_kohya.words import RAW_TOML

MANY = 0.5
"""Share of a level's slices above which their loss or smallness is worth a warning."""


def summarise(result: Result, config: HsdConfig) -> str:
    """The whole report, without a final line break."""
    tally = result.tally
    photos = [*_photos(tally), "", *_levels(tally), "", *_groups(tally), *_drops(tally)]
    lines = [
        *(photos if tally.photos or result.clips is None else ()),
        *([""] if tally.photos and result.clips else ()),
        *clips.table(result.clips),
        *_decided(result.decisions),
        *_swept(result),
        *_raw(result),
        *_memory(result),
        f"look     {safe(str(result.out / REPORT))}",
    ]
    notes = list(warnings(result, config))
    if notes:
        lines += ["", *(f"warning: {safe(note)}" for note in notes)]
    return "\n".join(lines)


def next_command(result: Result, config: HsdConfig) -> str:
    """What to run next, with each trainer that has a file here."""
    lines, out, film = ["", "next:"], result.out, result.clips
    moving = film.moving if film else 0
    for export in wanted(config.export):
        file = out / export.file
        if not file.is_file():
            lines.append(f"not with {export.trainer}: it reads images, and there are none")
            continue
        with_clips = moving and export.use_clips
        commands = export.use_clips(file) if moving and export.use_clips else export.use(file, config.masks != NONE)
        trainer = export.trainer_of_clips if with_clips else export.trainer
        lines += [f"with {trainer}:", *(f"  {command}" for command in commands)]
        if export.loses:
            lines.append(f"  gets {export.gets}; loses {export.loses}")
        if moving and not export.use_clips:
            lines.append(f"  its file names images alone: {moving} slices that are clips are passed over")
    return "\n".join([*lines, *clips.training(film, result.tally)])


def warnings(result: Result, config: HsdConfig) -> Iterator[str]:
    """One sentence each: what is lost or doubtful, and what to do."""
    tally = result.tally
    yield from _lost(tally)
    yield from _guessed(tally)
    for note, count in tally.notes.most_common():
        if note.startswith(LAID) and config.masks == ALPHA:
            continue  # and it is kept beside
        advice = f"; --masks {ALPHA} keeps it, for masked loss" if note.startswith(LAID) else ""
        yield f"{counted(count, 'photo')}, {note}: {tally.some(note, count)}{advice}"
    for level in config.finer if tally.photos else ():
        yield from _level_warning(tally.levels[level.name], level, config)
        yield from _unseen(tally.levels[level.name], tally.regions, level, config)
    yield from squares(config)
    if any(own.mode == "split" and own.detectors[own.coarsest.name][:1] == ("heuristic",) for own in config.everywhere):
        yield (
            'mode "split" with the heuristic detector: it knows no people and no objects, so its regions are only '
            "areas that stand out. Use another --detector, or --mode whole"
        )
    if tally.cropped:
        yield (
            counted(tally.cropped, "photo is", "photos are") + " too long for any size, which leaves much unused: "
            f"{tally.some(LONG, tally.cropped)}; --mode split makes several regions of a photo, or cut them first"
        )
    yield from clips.warnings(result.clips, config)
    yield from _left_alone(result)
    yield from _not_obeyed(result, config)
    yield from _not_read(result.found)
    yield from _of_others(result)
    for folder in result.unmatched:
        yield f'overrides."{folder}": no photo lies below that folder of PHOTOS'


def _of_others(result: Result) -> Iterator[str]:
    """Masks and pictures that belong to nothing here."""
    if result.stray_masks:
        strays = _some(result.stray_masks)
        masks = counted(len(result.stray_masks), "mask is", "masks are")
        yield f"{masks} of no photo, or of one that has another mask: {strays}"
    foreign = [file for file in result.foreign if is_picture(Path(file)) or is_clip(Path(file))]
    if foreign:
        images = counted(len(foreign), "image")
        yield (
            f"{images} in {result.out} not made here would be trained too, such as {foreign[0]}: "
            "move such away or choose another OUT"
        )


def _lost(tally: Tally) -> Iterator[str]:
    for kind, count in sorted(tally.lost.items()):
        advice = {
            NEAR_DUPLICATE: "; --near_duplicates -1 keeps them",
            UNREADABLE_MASK: "; give each photo a mask of its own shape",
            UNREADABLE_CAPTION: "; save these captions as UTF-8, and run it again",
            "no region": "; --mode whole takes such photos as they are",
        }.get(kind, "")
        yield f"{counted(count, 'photo was', 'photos were')} skipped, {kind}: {tally.some(kind, count)}{advice}"


def _guessed(tally: Tally) -> Iterator[str]:
    count, named = sum(tally.guessed.values()), tally.guessed.most_common(NAMED)
    if count:
        words = ", ".join(f'"{words}" ({photos})' for words, photos in named)
        more = len(tally.guessed) - len(named)
        yield (
            f"{count} of {tally.used} photos have no caption and train on words of their folder or file name: {words}"
            + (f" and {more} more, see {REPORT}" if more else "")
            + ". Give --caption TEXT for all of them, or write a .txt file beside each"
        )


def _left_alone(result: Result) -> Iterator[str]:
    """What the user has changed in OUT, and photos that were out of reach."""
    captions = [file for file in result.edited if file.endswith(".txt")]
    masks = [file for file in result.edited if file.startswith(MASKS)]
    slices = [file for file in result.edited if file not in (*captions, *masks)]
    for kind, files in (("caption", captions), ("mask", masks), ("slice", slices)):
        if files:
            count = counted(len(files), f"{kind} was edited here and stays", f"{kind}s were edited here and stay")
            yield f"{count} that way, such as {files[0]}"
    if result.unopened:
        what = "photo" if result.clips is None else "photo or clip"
        yield (
            f"{counted(len(result.unopened), what)} could not be opened now, what earlier runs made stays: "
            f"{_some(result.unopened)}"
        )
    if result.swept and result.swept.left:
        left = result.swept.left
        kept = counted(len(left), "file is made no more, but stays", "files are made no more, but stay")
        yield f"{kept} because of changes made here: {_some(left)}"
    if result.raw and result.raw.missing:
        missing = result.raw.missing
        photos = counted(len(missing), "photo could not be read again and is", "photos could not be read again and are")
        yield f"{photos} missing in {RAW_TOML}: {_some(missing)}"
    for place in result.swept.aside if result.swept else ():
        yield f"settings that were edited by hand are in {place} now, as a run writes its own: start from a copy"


def _not_obeyed(result: Result, config: HsdConfig) -> Iterator[str]:
    """Decisions of the review that this run could do nothing with."""
    decisions = result.decisions
    if decisions.absent and result.swept:  # a preview does not look at every photo
        photos = counted(len(decisions.absent), "photo of the review is", "photos of the review are")
        yield f"{photos} not here, or changed since it was decided: {_some(decisions.absent)}"
    settings = (*config.everywhere, *map(of_clips, config.everywhere))
    known = {"", *(level.name for own in settings for level in own.levels)}
    levels = [place.level for place in decisions.obeyed() if place.level not in known]
    if levels:
        names = ", ".join(sorted(set(levels)))
        count = counted(len(levels), "decision of the review is", "decisions of the review are")
        yield f"{count} about levels that this run does not have: {names}"
    if decisions.unread:
        yield f"{counted(decisions.unread, 'line')} of {decisions.path} passed over, which tell no decision"


def _not_read(found: Found) -> Iterator[str]:
    """What lies in PHOTOS and is passed over."""
    for folder, why in sorted(found.unreadable.items()):
        yield f"folder {folder} of PHOTOS cannot be read ({why}): nothing that came from it was touched"
    if found.linked:
        links = counted(len(found.linked), "folder is a link", "folders are links")
        yield f"{links} and not followed: {_some(found.linked)}; give such as PHOTOS"
    if found.results:
        folders = counted(len(found.results), "folder holds", "folders hold")
        yield f"{folders} results of a run and no photos: {_some(found.results)}"
    raw = sorted(name for suffix, names in found.others.items() if suffix in RAW for name in names)
    if raw:
        files = counted(len(raw), "raw file is", "raw files are")
        yield f"{files} not read: {_some(raw)}; export such as JPEG or TIFF"
    clips = sorted(name for suffix, names in found.others.items() if suffix in CLIPS for name in names)
    if clips:
        yield f"{counted(len(clips), 'clip is', 'clips are')} passed over, as clips = off says: {_some(clips)}"
    for suffix, names in sorted(found.others.items()):
        if suffix not in RAW and suffix not in CLIPS:
            files = counted(len(names), "file is no picture", "files are no pictures")
            yield f"{files} that can be read ({suffix or 'no suffix'}): {_some(names)}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f", and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _level_warning(tally: LevelTally, level: LevelConfig, config: HsdConfig) -> Iterator[str]:
    limit = (level.resolution / 2) ** 2
    small = sum(count for (width, height), count in tally.sizes.items() if width * height < limit)
    found = tally.kept + tally.dropped - tally.spare
    if tally.too_small > MANY * found:
        yield (
            f"{tally.too_small} of {found} {level.name} slices were dropped: even at {level.tau_up:g}x upscale they do "
            f"not reach min_size {config.min_size}. Use larger photos, or a smaller --min_size"
        )
    elif tally.plain > MANY * found:
        yield (
            f"{tally.plain} of {found} {level.name} slices were dropped as flat or blurred, below min_detail "
            f"{level.min_detail:g}. Use sharper photos, or a smaller --min_detail"
        )
    elif not tally.kept:
        yield f"no {level.name} slices at all: try another --detector, or leave the level out of --levels"
    elif small > MANY * tally.kept and not level.own_scale:
        yield (
            f"{small} of {tally.kept} {level.name} slices are below half of resolution {level.resolution}: more "
            f"than {level.tau_up:g}x upscale would only blur. Use larger photos, or a smaller --resolution"
        )

    if level.own_scale and tally.upscaled and not config.upscale_model:
        yield (
            f"{tally.upscaled} of {tally.kept} {level.name} slices are enlarged by a median of "
            f"{tally.enlargement:.2f}x, which adds no detail: --tau_up 1, larger photos or --upscale_model"
        )


def _unseen(tally: LevelTally, regions: int, level: LevelConfig, config: HsdConfig) -> Iterator[str]:
    if tally.unseen > MANY * regions:
        names = config.detectors[level.name]
        chain = ",".join((*names, "heuristic"))
        remedy = "" if "heuristic" in names else f"--detector {chain} takes salient windows there; else "
        yield (
            f"in {tally.unseen} of {regions} regions {', '.join(names)} found nothing for {level.name}, so they have "
            f"no such slice: {remedy}a lower threshold, other labels or another detector may find more"
        )


def squares(config: HsdConfig) -> Iterator[str]:
    for own in config.everywhere:
        names = [level.name for level in own.levels if all(w == h for w, h in level.targets(own.min_size))]
        if names:
            yield (
                f"every slice of {', '.join(names)} is cut to a square, as no other size lies between min_size "
                f"{own.min_size} and resolution {own.resolution}: use a smaller --min_size or a larger --resolution"
            )


def _photos(tally: Tally) -> Iterator[str]:
    reused = f"; {tally.reused} were finished before" if tally.reused else ""
    yield f"photos   {tally.photos} found, {tally.used} used, {tally.photos - tally.used} skipped{reused}"


def _levels(tally: Tally) -> Iterator[str]:
    yield f"{'level':<12}{'slices':>8}{'dropped':>9}{'upscaled':>12}  most common size"
    for name, level in tally.levels.items():
        share = f"{level.upscaled / level.kept:.0%}" if level.kept else "-"
        share += f" {level.enlargement:.2f}x" if level.upscaled else ""
        common = "{}x{}".format(*level.sizes.most_common(1)[0][0]) if level.sizes else "-"
        yield f"{name:<12}{level.kept:>8}{level.dropped - level.spare:>9}{share:>12}  {common}"


def _groups(tally: Tally) -> Iterator[str]:
    counts = ", ".join(f"{count} with K={k}" for k, count in sorted(tally.group_sizes.items(), reverse=True))
    yield f"groups   {sum(tally.group_sizes.values())}" + (f": {counts}" if counts else "")


def _decided(decisions: Decisions) -> Iterator[str]:
    places = decisions.obeyed()
    kinds = {
        "rejected": sum(place.box is None for place in places),
        "boxes": sum(place.box is not None and place.box != place.anchor for place in places),
        "captions": sum(bool(place.caption) for place in places),
        "kept": sum(place.box is not None and place.box == place.anchor and not place.caption for place in places),
    }
    if places:
        words = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
        yield f"review   {len(places)} decisions obeyed: {words}"


def _swept(result: Result) -> Iterator[str]:
    if result.swept and result.swept.removed:
        yield f"removed  {counted(result.swept.removed, 'file')} made before and made no more"


def _raw(result: Result) -> Iterator[str]:
    if result.raw and result.raw.count:
        photos = counted(result.raw.count, "whole photo")
        yield f"raw      {photos} in {RAW_TOML}, for the baseline that trains without slices"


def _memory(result: Result) -> Iterator[str]:
    memory = result.memory
    if memory.waited:
        yield (
            f"memory   {counted(memory.waited, 'photo')} waited until others had made room: more than --memory "
            f"{shown_size(memory.limit)} may be faster"
        )


def _drops(tally: Tally) -> Iterator[str]:
    kinds = [(kind, count) for kind, count in tally.reasons.most_common() if count and kind not in (DUPLICATE, SURPLUS)]
    if kinds:
        yield "dropped  " + ", ".join(f"{count} {kind}" for kind, count in kinds)
    if tally.reasons[DUPLICATE]:
        boxes = counted(tally.reasons[DUPLICATE], "box shows", "boxes show")
        yield f"spare    {boxes} again what a better one of its level shows"
    if tally.reasons[SURPLUS]:
        yield f"spare    in {counted(tally.reasons[SURPLUS], 'region')} a level has more boxes than --max_slices takes"
