"""Hierarchical Semantic Decomposition (Algorithm 1 of arXiv:2603.10785): photos in, kohya folders out."""

from sga_kohya.hsd.config import HsdConfig, LevelConfig
from sga_kohya.hsd.detect import Detection, Detector, View, register_detector
from sga_kohya.hsd.geometry import Box
from sga_kohya.hsd.runs import run

__all__ = ["Box", "Detection", "Detector", "HsdConfig", "LevelConfig", "View", "register_detector", "run"]
