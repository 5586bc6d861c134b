"""The model-free detector.

What stands out, and what of it looks like a head (`maps`); faces, where OpenCV can find them (`faces`); the windows
that show it without cutting it (`windows`).
"""

from sga_kohya.hsd.detectors.heuristic.detector import HeuristicDetector, create

__all__ = ["HeuristicDetector", "create"]
