"""report.html: what a run made and what it left out, for a person to look at. Links to small pictures beside it.

Many photos are in further files, `report_pages/2.html` and so on, which a browser can hold one at a time.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby, islice
from pathlib import Path

from markupsafe import Markup

from sga_kohya.hsd.clips.tally import ClipTally
from sga_kohya.hsd.out.lines import read_rows
from sga_kohya.hsd.out.manifest import Row
from sga_kohya.hsd.out.tally import LevelTally, Tally
from sga_kohya.hsd.out.view import photo_view
from sga_kohya.hsd.settings.config import HsdConfig
from sga_kohya.kit.files import whole_file
from sga_kohya.kit.page import as_json, stream
from sga_kohya.kit.text import safe

REPORT = "report.html"
MARK = Markup('<meta name="generator" content="sga_kohya.hsd">')
"""In the page, so that another's report.html is known and left alone."""
PAGES = "report_pages"
PER_FILE = 5000
"""Photos in one file."""
MOST_GUESSES = 20
"""Words of names that stand in the report; the summary shows fewer."""


def write_report(
    out: Path, config: HsdConfig, tally: Tally, preview_of: int | None = None, film: ClipTally | None = None
) -> None:
    """From the manifest in `out`, a row at a time. preview_of: photos there are, where only some were taken."""
    preview = preview_of is not None
    film = film or ClipTally([])
    count = tally.photos + film.photos
    files = 1 if preview else max(1, -(-count // PER_FILE))
    photos = (list(rows) for _, rows in groupby(read_rows(out), key=lambda row: row.source))
    for number in range(1, files + 1):
        some = islice(photos, PER_FILE) if number < files else photos
        pieces = _page(out, config, tally, film, preview_of, number, files, some)
        path = page_file(out, number)
        path.parent.mkdir(exist_ok=True)
        with whole_file(path) as part, part.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(pieces)
    _remove_pages(out, files)


def page_file(out: Path, number: int) -> Path:
    """number: from 1."""
    return out / REPORT if number == 1 else out / PAGES / f"{number}.html"


def written_pages(out: Path) -> list[Path]:
    """The further files that are there, from the second on."""
    return [path for path in (out / PAGES).glob("*.html") if path.stem.isdigit()]


def _remove_pages(out: Path, files: int) -> None:
    """Those of an earlier run that had more."""
    for path in written_pages(out):
        if int(path.stem) > files:
            path.unlink()
    with suppress(OSError):  # not there, or not empty
        (out / PAGES).rmdir()


def _page(
    out: Path,
    config: HsdConfig,
    tally: Tally,
    film: ClipTally,
    preview_of: int | None,
    number: int,
    files: int,
    photos: Iterable[Sequence[Row]],
) -> Iterator[str]:
    """One file, in pieces. photos: the rows of each that stands in it."""
    preview = preview_of is not None
    levels, count = list({**tally.levels, **film.levels}), tally.photos + film.photos
    of_photos = tally.levels.items() if tally.photos or not film.photos else ()
    up = "../" if number > 1 else ""
    return stream(
        "sga_kohya.hsd",
        "out/page.html",
        mark=MARK,
        number=number,
        up=up,
        files=[f"{up}{page_file(Path(), i).as_posix()}" for i in range(1, files + 1)],
        part=f"{PER_FILE * (number - 1) + 1:,} to {min(PER_FILE * number, count):,} of {count:,}",
        title=f"Preview: {tally.photos} of {preview_of} photos" if preview else "Photos to slices",
        lead=_lead(config) + ("" if preview else " Click a slice to open it in full size."),
        numbers=[*(_numbers(tally) if of_photos else ()), *(_numbers(film, "clips") if film.photos else ())],
        group_sizes=sorted(tally.group_sizes | film.group_sizes),
        group_bars=_bars((f"K = {k}", count, 0, f"{count:,}") for k, count in sorted(tally.group_sizes.items())),
        level_bars=_bars((name, level.kept, level.upscaled, _in_words(level)) for name, level in of_photos),
        sizes=[(name, _sizes(level)) for name, level in of_photos],
        clip_bars=_bars(_of_clips(film)),
        clip_sizes=[(name, _sizes(level)) for name, level in film.levels.items()],
        discarded=any((tally.reasons + film.reasons).values()),
        levels=levels,
        guessed=[(safe(words), count) for words, count in tally.guessed.most_common(MOST_GUESSES)],
        guessed_more=len(tally.guessed) - MOST_GUESSES,
        notes=(tally.notes + film.notes).most_common(),
        examples={**film.examples, **tally.examples},
        data=_data(out, levels, list(tally.levels), film, photos, links=not preview),
    )


def _lead(config: HsdConfig) -> str:
    mode = "each photo is one region" if config.mode == "whole" else "regions are what the detector finds in a photo"
    levels = ", ".join(f"{level.name} up to {level.resolution}²" for level in config.levels)
    own = "".join(f"; {level.name} by {level.detector}" for level in config.levels if level.detector)
    least = ", ".join(f"{level.min_detail:g} for {level.name}" for level in config.finer if level.min_detail)
    gate = f" Left out where even the richest part has less detail than {least} (grey levels)." if least else ""
    return f"Detector {config.detector}{own}; {mode}; {levels} pixels.{gate}"


def _numbers(tally: Tally, what: str = "photos") -> Iterator[tuple[str, str]]:
    """what: are counted."""
    levels = tally.levels.values()
    kept, upscaled = sum(level.kept for level in levels), sum(level.upscaled for level in levels)
    of = "" if what == "photos" else f" of {what}"
    yield what, f"{tally.photos:,}"
    yield f"{what} used", f"{tally.used:,}"
    yield f"groups{of}", f"{sum(tally.group_sizes.values()):,}"
    yield f"slices{of}", f"{kept:,}"
    yield "of them enlarged", f"{upscaled / kept:.0%}" if kept else "–"
    model = sum(level.super_resolved for level in levels)
    if model:
        yield "by super-resolution", f"{model / kept:.0%}"
    yield f"left out{of}", f"{sum(tally.reasons.values()):,}"


def _of_clips(film: ClipTally) -> Iterator[tuple[str, int, int, str]]:
    for name, level in film.levels.items():
        most = film.lengths(name).most_common(1)
        frames = f" of {most[0][0]} frames" if most and most[0][0] > 1 else ""
        yield name, level.kept, level.upscaled, f"{level.kept:,}{frames}"


def _in_words(level: LevelTally) -> str:
    share = f", {level.upscaled / level.kept:.0%} enlarged by {level.enlargement:.2f}×" if level.upscaled else ""
    return f"{level.kept:,}{share}"


def _bars(rows: Iterable[tuple[str, int, int, str]]) -> list[tuple[str, float, float, str]]:
    """rows: name, count, how many of it in the second colour, words behind the bar. Returns percent for counts."""
    rows = list(rows)
    most = max((count for _, count, _, _ in rows), default=0) or 1
    return [
        (name, 100 * count / most, 100 * part / count if count else 0.0, words) for name, count, part, words in rows
    ]


def _sizes(level: LevelTally) -> str:
    common = level.sizes.most_common(5)
    return ", ".join(f"{width}×{height} ({count:,})" for (width, height), count in common) or "–"


def _data(
    out: Path,
    levels: list[str],
    of_photos: Collection[str],
    film: ClipTally,
    photos: Iterable[Sequence[Row]],
    links: bool,
) -> Iterator[Markup]:
    """JSON in pieces: the photos as they stream by, and after them what was left out, by kind."""
    discards: dict[str, list[list[object]]] = defaultdict(list)
    yield Markup('{"levels": %s, "links": %s, "photos": [') % (as_json(levels), as_json(links))
    comma = Markup("")
    for rows in photos:
        for row in rows:
            if not row.file:
                why = safe((row.reason or "").partition(":")[2].strip())
                discards[row.kind].append([safe(row.source), levels.index(row.granularity), why])
        if any(row.file for row in rows):
            own = film.levels if rows[0].moving else of_photos
            yield comma + as_json(photo_view(rows, levels, out, own))
            comma = Markup(",\n")
    yield Markup('], "discards": %s}') % as_json(discards)
