"""YOLO and RT-DETR exports (.onnx) through ONNX Runtime.

`export`: what a file says of itself. `layouts`: the table of known outputs, one function each. `model`: the detector.
"""

from sga_kohya.hsd.detectors.onnx.model import create

__all__ = ["create"]
