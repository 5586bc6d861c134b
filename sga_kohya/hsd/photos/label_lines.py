"""Telling a line of a YOLO label file from a caption: both are PHOTO.txt, and either may lie beside the photo."""

import re

NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|nan|[+-]?inf"


def is_label_line(line: str) -> bool:
    """Whether it is a class number and four numbers or more: in any spelling, with any white space between them."""
    first, *rest = line.split() or [""]
    numbers = [re.fullmatch(NUMBER, word, re.IGNORECASE) for word in rest]
    return len(numbers) >= 4 and all(numbers) and re.fullmatch(r"\d+(\.0*)?([eE][+]?0+)?", first) is not None
