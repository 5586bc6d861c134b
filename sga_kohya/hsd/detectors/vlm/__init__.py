"""A vision-language model as detector: it is shown a photo and answers with boxes in JSON.

Through any OpenAI-compatible endpoint, or by transformers on this machine.
"""

from sga_kohya.hsd.detectors.vlm.detector import create

__all__ = ["create"]
