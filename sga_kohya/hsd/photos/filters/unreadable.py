"""Photos, and captions, that could not be read."""

from sga_kohya.hsd.photos.photo import Photo


def unreadable(photo: Photo) -> str | None:
    """What stood in the way in loading it."""
    return photo.problem or None
