"""Photos that reach no target size of the coarsest level, wherever in them a region might lie."""

from sga_kohya.hsd.cut.decompose import coarsest_crop
from sga_kohya.hsd.cut.geometry import Box
from sga_kohya.hsd.detect import Detection
from sga_kohya.hsd.photos.photo import Photo


def too_small(photo: Photo) -> str | None:
    """No region has a larger frame than the whole photo, of whatever aspect ratio: so what finds them is not asked."""
    if photo.size is None:
        return None
    whole, config = Box.whole(photo.size), photo.kit.config
    return coarsest_crop(Detection(whole, 1.0, config.coarsest.name), whole, config).reason
