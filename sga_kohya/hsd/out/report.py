"""report.html: what a run made and what it left out, for a person to look at. Links to small pictures beside it."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from html import escape
from itertools import groupby
from pathlib import Path
from typing import TextIO

from sga_kohya.hsd.out.ledger import STRIPS, read_rows
from sga_kohya.hsd.out.manifest import caption_file
from sga_kohya.hsd.out.strips import GAP, TILE_HEIGHT
from sga_kohya.hsd.out.tally import LevelTally, Tally
from sga_kohya.hsd.settings.config import HsdConfig
from sga_kohya.kit.files import whole_file
from sga_kohya.kit.text import UnreadableText, lines_of, read_text, safe

REPORT = "report.html"
MARK = '<meta name="generator" content="sga_kohya.hsd">'
"""In the page, so that another's report.html is known and left alone."""
MOST_GUESSES = 20
"""Words of names that stand in the report; the summary shows fewer."""
TEMPLATE = Path(__file__).with_name("report.template.html")


def write_report(out: Path, config: HsdConfig, tally: Tally, preview_of: int | None = None) -> None:
    """From the manifest in `out`, a row at a time. preview_of: photos there are, where only some were taken."""
    preview = preview_of is not None
    parts = {
        "mark": MARK,
        "title": f"Preview: {tally.photos} of {preview_of} photos" if preview else "Photos to slices",
        "lead": escape(_lead(config) + ("" if preview else " Click a name to open the slice in full size.")),
        "numbers": "".join(f"<li><b>{value}</b>{escape(name)}</li>" for name, value in _numbers(tally)),
        "k_bars": _bars((f"K = {k}", count, 0, f"{count:,}") for k, count in sorted(tally.group_sizes.items())),
        "level_bars": _bars(
            (name, level.kept, level.upscaled, _in_words(level)) for name, level in tally.levels.items()
        ),
        "size_rows": "".join(map(_size_row, tally.levels.items())),
        "no_discards": "" if any(tally.reasons.values()) else "<p>Nothing.</p>",
        "notes": _guessed(tally) + _notes(tally),
        "k_options": "".join(f'<option value="{k}">with K = {k}</option>' for k in sorted(tally.group_sizes)),
        "strips": STRIPS,
        "gap": str(GAP),
        "height": str(TILE_HEIGHT),
    }
    page = TEMPLATE.read_text(encoding="utf-8")
    # Names of files may hold braces, so what is inserted is never searched again.
    head, tail = ("".join(_filled(half, parts)) for half in page.split("{{data}}"))
    with whole_file(out / REPORT) as part, part.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(head)
        _write_data(file, out, list(tally.levels), links=not preview)
        file.write(tail)


def _filled(text: str, parts: dict[str, str]) -> Iterator[str]:
    for piece in text.split("{{"):
        name, brace, rest = piece.partition("}}")
        yield parts[name] + rest if brace and name in parts else piece


def _lead(config: HsdConfig) -> str:
    mode = "each photo is one region" if config.mode == "whole" else "regions are what the detector finds in a photo"
    levels = ", ".join(f"{level.name} up to {level.resolution}²" for level in config.levels)
    return f"Detector {config.detector}; {mode}; {levels} pixels."


def _numbers(tally: Tally) -> Iterator[tuple[str, str]]:
    levels = tally.levels.values()
    kept, upscaled = sum(level.kept for level in levels), sum(level.upscaled for level in levels)
    yield "photos", f"{tally.photos:,}"
    yield "photos used", f"{tally.used:,}"
    yield "groups", f"{sum(tally.group_sizes.values()):,}"
    yield "slices", f"{kept:,}"
    yield "of them enlarged", f"{upscaled / kept:.0%}" if kept else "–"
    model = sum(level.super_resolved for level in levels)
    if model:
        yield "by super-resolution", f"{model / kept:.0%}"
    yield "left out", f"{sum(tally.reasons.values()):,}"


def _in_words(level: LevelTally) -> str:
    return f"{level.kept:,}" + (f", {level.upscaled / level.kept:.0%} enlarged" if level.upscaled else "")


def _bars(rows: Iterable[tuple[str, int, int, str]]) -> str:
    """rows: name, count, how many of it in the second colour, words behind the bar."""
    rows = list(rows)
    most = max((count for _, count, _, _ in rows), default=0) or 1
    return "".join(
        f'<span>{escape(name)}</span><i style="width:{100 * count / most:.2f}%">'
        f'<u style="width:{100 * part / count if count else 0:.2f}%"></u></i><span>{escape(words)}</span>'
        for name, count, part, words in rows
    )


def _size_row(item: tuple[str, LevelTally]) -> str:
    name, level = item
    sizes = ", ".join(f"{width}×{height} ({count:,})" for (width, height), count in level.sizes.most_common(5))
    return f"<tr><td>{escape(name)}</td><td>{sizes or '–'}</td></tr>"


def _notes(tally: Tally) -> str:
    lines = "".join(
        f"<tr><td>{count:,}</td><td>{escape(note)}</td><td>{escape(', '.join(tally.examples[note]))}</td></tr>"
        for note, count in tally.notes.most_common()
    )
    return f'<h2 id="notes">Noted in reading</h2><table>{lines}</table>' if lines else ""


def _guessed(tally: Tally) -> str:
    lines = "".join(
        f"<tr><td>{count:,}</td><td>{escape(safe(words))}</td></tr>"
        for words, count in tally.guessed.most_common(MOST_GUESSES)
    )
    left = len(tally.guessed) - MOST_GUESSES
    more = (
        f"<p>And {left:,} other captions, of a name each; they are marked in the contact sheet.</p>" if left > 0 else ""
    )
    advice = "They train on these words of their folder or file name. Give --caption, or write a .txt file beside each."
    return f'<h2 id="guessed">Photos without a caption</h2><p>{advice}</p><table>{lines}</table>{more}' if lines else ""


def _write_data(file: TextIO, out: Path, levels: list[str], links: bool) -> None:
    """The groups as they stream by; the discards after them."""
    discards: dict[str, list] = defaultdict(list)
    file.write(f'{{"levels": {_json(levels)}, "links": {_json(links)}, "groups": [')
    comma = ""
    for (group, source), members in groupby(read_rows(out), key=lambda row: (row.group, row.source)):
        source, slices, captions, guessed = safe(source), [], [], False
        for row in members:
            level = levels.index(row.granularity)
            if row.file and row.size:
                slices.append([level, row.file, *row.size, row.scale, row.score, row.label, row.upscaler])
                captions.append(_caption(out / caption_file(row.file)))
                guessed = bool(row.guessed_caption)
            else:
                discards[row.kind].append([source, level, safe((row.reason or "").partition(":")[2].strip())])
        if slices:
            captions = captions[:1] if len(set(captions)) == 1 else captions
            file.write(comma + _json([group, source, slices, captions, guessed]))
            comma = ",\n"
    file.write(f'], "discards": {_json(discards)}}}')


def _caption(file: Path) -> str:
    """As it lies there, which may have been edited."""
    try:
        return "\n".join(map(safe, lines_of(read_text(file))))
    except UnreadableText as error:
        return f"({error.reason})"
    except OSError as error:
        return f"({error.strerror})"


def _json(value: object) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")
