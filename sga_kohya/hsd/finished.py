"""What earlier runs have made of a source, photo or clip, and what of it stands."""

from dataclasses import replace

from sga_kohya.hsd.captioners.captioning import NOTES
from sga_kohya.hsd.detect import UNANSWERED
from sga_kohya.hsd.masks.sources import NOT_DRAWN
from sga_kohya.hsd.out.manifest import UNREADABLE, Row
from sga_kohya.hsd.out.output import OutputFolder
from sga_kohya.hsd.photos.photo import Photo

LATER = (*NOTES, UNANSWERED, NOT_DRAWN)
"""Notes that are made behind reading."""


def finished_rows(folder: OutputFolder, photo: Photo) -> list[Row]:
    """Rows from the same inputs whose files are all there, else [].

    One that could not be read never is: a plugin may have been installed. Nor is one that its detector failed at.
    """
    rows = folder.ledger.rows(photo.source, str(photo.inputs))
    if any(UNANSWERED in row.notes for row in rows):
        return []
    return rows if all(row.kind != UNREADABLE and folder.holds(row) for row in rows) else []


def unopened(folder: OutputFolder, photo: Photo, error: OSError) -> Photo:
    """One that cannot be opened now, with the slices that it has."""
    # Without the path, which the row has, and which must not depend on where PHOTOS lies.
    problem = f"{UNREADABLE}: {error.strerror or error}"
    # Its slices have the name that they were made under, which may be another photo's now.
    before = [row for row in folder.made_before(photo.source) if row.root == photo.root]
    return replace(photo, problem=problem, finished=before)


def as_read(photo: Photo) -> Photo:
    """Without what was noted as it was cut and captioned: of one that is left out after all, whatever was done with it
    before that was known."""
    return replace(photo, pixels=None, notes=[note for note in photo.notes if note not in LATER])


def to_caption(photo: Photo) -> list[Row]:
    """Rows of a finished one whose captions are to be made anew, as what they are made with has changed; else []."""
    if photo.taken or all(row.captioned == photo.kit.captions_digest for row in photo.finished if row.file):
        return []
    own = photo.origin.guessed_caption
    return [replace(row, guessed_caption=own) for row in photo.finished]
