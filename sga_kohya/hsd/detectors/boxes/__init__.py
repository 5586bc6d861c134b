"""Existing annotations instead of a model: YOLO text files or one COCO JSON.

`yolo` and `coco` read them, `matching` finds out whose they are, `drawing` brings them onto the upright photo.
"""

from sga_kohya.hsd.detectors.boxes.detector import create

__all__ = ["create"]
