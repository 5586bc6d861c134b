"""The README's picture of the demo's page: python -m tests.demo_picture sga-demo/report.html

Into the picture's own text goes what it shows, so that test_demo.py can tell when the page has changed since.
"""

import base64
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .evaluate_browser import Page, chromium

PICTURE = Path(__file__).parents[1] / "examples" / "demo_report.png"
SHOWN = ("groups", "plan", "noise", "cosines", "loss")
WIDTH, SCALE = 1180, 0.75
LAYOUT = """[...document.querySelectorAll('section')].map(s => [s.id, s.querySelector('h2').innerText,
    s.querySelectorAll('svg.chart').length, s.querySelectorAll('.card').length > 0])"""
"""Of each section its name, heading and charts, and whether it has cards; how many depends on the photos."""


def layout(page: Page) -> list[Any]:
    return page.run(LAYOUT)


def taken_of() -> list[Any]:
    """The layout of the page that the picture was taken of."""
    with Image.open(PICTURE) as image:
        return json.loads(image.info["layout"])


def take(report: Path) -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, chromium(Path(folder)) as page:
        page.call("Emulation.setDeviceMetricsOverride", width=WIDTH, height=900, deviceScaleFactor=1, mobile=False)
        page.open(report.resolve().as_uri())
        height = page.run(f"document.querySelector('#{SHOWN[-1]}').getBoundingClientRect().bottom + scrollY + 20")
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": height, "scale": SCALE}
        data = page.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"]
        information = PngInfo()
        information.add_text("layout", json.dumps(layout(page)))
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        image.convert("P", palette=Image.Palette.ADAPTIVE, colors=256).save(PICTURE, pnginfo=information, optimize=True)


if __name__ == "__main__":
    take(Path(sys.argv[1]))
