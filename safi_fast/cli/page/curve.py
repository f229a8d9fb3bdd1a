"""How a solve converged, drawn as SVG."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from ...plots import ACCENT, BLUE

WIDTH, HEIGHT = 440, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 34, 36  # margins
MOST_TICKS = 8  # of a side


def curve(gaps: Sequence[float], changes: Sequence[float], certificate: str) -> str:
    """An SVG of two lines over the outer steps, on a logarithmic scale; nothing where there is nothing to draw.

    Values that are not finite or not positive, as the change of a first step, are left out.
    """
    lines = [(certificate, BLUE, _points(gaps)), ("change between masks", ACCENT, _points(changes))]
    values = [value for _, _, points in lines for _, value in points]
    if not values:
        return ""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    steps = max(len(gaps), len(changes))

    def place(step: int, value: float) -> tuple[float, float]:
        right = LEFT + (WIDTH - LEFT - RIGHT) * ((step - 1) / (steps - 1) if steps > 1 else 0.5)
        down = TOP + (HEIGHT - TOP - BOTTOM) * (high - math.log10(value)) / (high - low)
        return round(right, 1), round(down, 1)

    parts = [_axes(low, high, steps, place)]
    for number, (name, colour, points) in enumerate(line for line in lines if line[2]):
        parts.append(_line(name, colour, [(step, value, *place(step, value)) for step, value in points]))
        left = LEFT + number * 210
        parts.append(f'<circle cx="{left + 4}" cy="14" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{left + 14}" y="18">{html.escape(name)}</text>')
    label = f"Convergence over {steps} outer steps"
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}"><title>{label}</title>'
        f"{''.join(parts)}</svg>"
    )


def _points(values: Sequence[float]) -> list[tuple[int, float]]:
    return [(step, value) for step, value in enumerate(values, 1) if math.isfinite(value) and value > 0]


def _line(name: str, colour: str, points: Sequence[tuple[int, float, float, float]]) -> str:
    path = " ".join(f"{right},{down}" for _, _, right, down in points)
    dots = "".join(
        f'<circle cx="{right}" cy="{down}" r="3.5" fill="{colour}">'
        f"<title>step {step}, {html.escape(name)}: {value:.2e}</title></circle>"
        for step, value, right, down in points
    )
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>{dots}'


def _axes(low: int, high: int, steps: int, place: object) -> str:
    assert callable(place)
    parts = []
    for power in range(low, high + 1, -(-(high - low) // MOST_TICKS)):
        _, down = place(1, 10.0**power)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down}" y2="{down}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{down + 4}" text-anchor="end">1e{power}</text>')
    for step in range(1, steps + 1, -(-steps // MOST_TICKS)):
        right, _ = place(step, 10.0**low)
        parts.append(f'<text class="tick" x="{right}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{step}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="tick" x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">outer step</text>')
    return "".join(parts)
