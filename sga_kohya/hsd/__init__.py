"""Hierarchical Semantic Decomposition (Algorithm 1 of arXiv:2603.10785): photos in, kohya folders out."""

from sga_kohya.hsd.config import HsdConfig, LevelConfig
from sga_kohya.hsd.detect import Detection, Detector, register_detector
from sga_kohya.hsd.geometry import Box
from sga_kohya.hsd.heuristic import HeuristicDetector
from sga_kohya.hsd.pipeline import run

__all__ = ["Box", "Detection", "Detector", "HsdConfig", "LevelConfig", "register_detector", "run"]

register_detector("heuristic", lambda config: HeuristicDetector([level.name for level in config.levels]))
