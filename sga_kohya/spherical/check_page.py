"""The probe's page: figures, curves and pictures in one HTML file beside the files it shows."""

import base64
import html
import io
from pathlib import Path
from typing import Any

from sga_kohya.kit.files import write_whole
from sga_kohya.spherical.tokenizer_check import table

_PAGE = """<!doctype html><meta charset="utf-8"><title>{title}</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}}
pre{{background:#f4f4f4;padding:1rem;overflow-x:auto;font-size:13px;white-space:pre-wrap}}img{{max-width:100%}}
.verdict{{border-left:.4rem solid {colour};padding:.5rem 1rem;background:#f8f8f8}}</style>
<h1>{title}</h1><p class="verdict"><b>{verdict}</b>: {why}.</p>
<p>The verdict's bounds are this tool's own: suited where a swapped radius moves the decode at most a third as far as a
swapped direction and the norms' CV is at most 0.3. The paper reports CVs of 0.16 to 0.23 for its tokenizers.</p>
<pre>{table}</pre><h2>Paths, and what carries the picture</h2><img src="data:image/png;base64,{charts}" alt="charts">
<h2>Swapped parts</h2><p>From top to bottom: photo; decode; radius of the next image; direction of the next image;
both; decode of the projected latents by this decoder, which was not trained for them.</p>
<img src="data:image/png;base64,{grid}" alt="grid of decodes">"""
_COLOURS = {"suited": "#2a7", "doubtful": "#d90", "unsuited": "#c33"}


def write_report(figures: dict[str, Any], out: Path) -> None:
    """OUT/probe.html and charts.png. out: where the probe's swap.png is."""
    charts = draw(figures)
    write_whole(out / "charts.png", charts)
    texts = {key: html.escape(str(figures[key])) for key in ("verdict", "why")}
    page = _PAGE.format(
        title=html.escape(f"Spherical probe of {figures['vae']}"),
        colour=_COLOURS[figures["verdict"]],
        table=html.escape(table(figures)),
        charts=base64.b64encode(charts).decode(),
        grid=base64.b64encode((out / "swap.png").read_bytes()).decode(),
        **texts,
    )
    write_whole(out / "probe.html", page.encode())


def draw(figures: dict[str, Any]) -> bytes:
    """A PNG of three panels: radial share and norm along the paths, and the perturbation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), layout="constrained")
    share, norm, change = figure.subplots(1, 3)
    for name, curves in figures["paths"].items():
        share.plot(figures["sigmas"], curves["radial_share"], label=name)
        norm.plot(figures["sigmas"], curves["norm"], label=name)
    share.set(xlabel="sigma (1 is noise)", title="radial share of the velocity", ylim=(0, None))
    norm.set(xlabel="sigma (1 is noise)", title="mean |x| / sqrt(d)", ylim=(0, None))
    share.legend()
    measured = figures["perturbation"]
    best = next(name for name in ("LPIPS", "DINO", "pixels") if name in measured)
    for kind, values in measured[best].items():
        change.plot(figures["angles"], values, marker="o", label=kind)
    change.set(xlabel="angle of the turn (radians)", title=f"{best} distance after a turn and a radial change", ylim=0)
    change.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
