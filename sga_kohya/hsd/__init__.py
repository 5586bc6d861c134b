"""Hierarchical Semantic Decomposition (Algorithm 1 of arXiv:2603.10785): photos in, kohya folders out."""

from sga_kohya.hsd.captioners.captioner import Captioner, Slice, register_captioner
from sga_kohya.hsd.cut.geometry import Box
from sga_kohya.hsd.cut.quality import CROP_FILTERS
from sga_kohya.hsd.detect import Detection, Detector, View, register_detector
from sga_kohya.hsd.detectors.options import Options
from sga_kohya.hsd.photos.filters import FILTERS
from sga_kohya.hsd.photos.photo import Photo
from sga_kohya.hsd.run import run
from sga_kohya.hsd.settings.config import HsdConfig, LevelConfig

__all__ = [
    "CROP_FILTERS",
    "FILTERS",
    "Box",
    "Captioner",
    "Detection",
    "Detector",
    "HsdConfig",
    "LevelConfig",
    "Options",
    "Photo",
    "Slice",
    "View",
    "register_captioner",
    "register_detector",
    "run",
]
