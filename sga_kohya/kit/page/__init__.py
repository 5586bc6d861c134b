"""HTML pages: a template of the caller's package, on one base page, with every value escaped.

A page is one file without anything from the network. Its template begins with `{% extends "base.html" %}` and fills
the blocks there. What a value holds stays text, whatever it looks like; only `Markup` is put in as it is, such as the
charts of kit/svg.py.
"""

import base64
import io
import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from PIL import Image

from sga_kohya.kit.text import numeral

_dumps = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps would make an encoder for each call


def render(package: str, template: str, **values: object) -> str:
    """The whole page, which UTF-8 can hold: file names of other bytes stand in it as backslash escapes.

    package: whose folder holds the template. Raises jinja2.UndefinedError where the template asks for another value.
    """
    return "".join(stream(package, template, **values)).encode(errors="backslashreplace").decode()


def stream(package: str, template: str, **values: object) -> Iterator[str]:
    """The same in pieces. A value that is an iterator is used up as they are taken, so it may be of any length."""
    return _environment(package).get_template(template).generate(**values)


def as_json(value: object) -> Markup:
    """JSON that cannot end the script element it stands in; a template has it as the filter `tojson`."""
    return htmlsafe_json_dumps(value, dumps=_dumps)


def data_uri(image: Image.Image, format: str = "WEBP", **options: Any) -> str:
    """A picture as the address of itself. options: of Pillow's writer."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return bytes_uri(buffer.getvalue(), f"image/{format.lower()}")


def bytes_uri(content: bytes, kind: str) -> str:
    """kind: the content's type, such as image/png."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@lru_cache
def _environment(package: str) -> Environment:
    found = Environment(
        loader=ChoiceLoader([PackageLoader(package, ""), PackageLoader(__name__, "")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["thousands"] = "{:,}".format
    found.filters["numeral"] = numeral
    found.policies["json.dumps_function"] = _dumps
    found.policies["json.dumps_kwargs"] = {}
    return found
