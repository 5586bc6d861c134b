"""What the tokenizer check found: text for a terminal, and one HTML file with curves and pictures."""

import io
from pathlib import Path
from typing import Any

from sga_kohya.kit.files import write_whole
from sga_kohya.kit.page import bytes_uri, render
from sga_kohya.kit.text import numeral


def write_report(figures: dict[str, Any], out: Path) -> None:
    """OUT/probe.html and charts.png. out: where the check's swap.png is."""
    charts = draw(figures)
    write_whole(out / "charts.png", charts)
    page = render(
        __package__,
        "page.html",
        figures=figures,
        table="\n".join(lines(figures)),
        charts=bytes_uri(charts, "image/png"),
        grid=bytes_uri((out / "swap.png").read_bytes(), "image/png"),
    )
    write_whole(out / "probe.html", page)


def table(figures: dict[str, Any]) -> str:
    """The figures and the verdict as text for a terminal."""
    return "\n".join([*lines(figures), f"{figures['verdict']}: {figures['why']}"])


def lines(figures: dict[str, Any]) -> list[str]:
    """The figures in columns."""
    norms, paths, d = figures["norms"], figures["paths"], figures["channels"]
    found = [
        f"{figures['vae']}: {figures['images']} images at {figures['resolution']}, tokens with d = {d}",
        f"  norm CV                     {numeral(norms['norm_cv'], '.3f')}   (Gaussian {norms['gaussian_cv']:.3f})",
        f"  mean norm / sqrt(d)         {numeral(norms['mean_norm_over_sqrt_d'], '.3f')}",
        f"  {'path':<20}{'mean radial share':>20}{'greatest off-shell distance':>30}",
    ]
    for name, curves in paths.items():
        share, off = curves["radial_share"], curves["off_shell"]
        found.append(f"    {name:<18}{numeral(sum(share) / len(share), '.3f'):>20}{numeral(max(off), '.2f'):>30}")
    found.append(f"  {'swapped, distance to the anchor':<34}{'radius':>12}{'direction':>12}{'both':>12}")
    for name, swap in figures["component_swap"].items():
        found.append(f"    {name:<32}" + _columns(swap["radius"], swap["direction"], swap["both"]))
    found.append(f"  {'decoded, distance to the photo':<34}{'latents':>12}{'projected':>12}")
    for name, cost in figures["projection_cost"].items():
        found.append(f"    {name:<32}" + _columns(cost["latents"], cost["projected"]))
    return [*found, *(f"  {line}" for line in figures["absent"])]


def _columns(*numbers: float) -> str:
    return "".join(f"{numeral(number, '.4f'):>12}" for number in numbers)


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
