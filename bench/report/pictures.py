"""Rows of images with captions, and empty plots; all without a display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, CAPTION, GAP, DPI = 2.4, 0.32, 0.06, 110  # inches; dots per inch


def panels(path: str | Path, rows: Sequence[Sequence[tuple[str, np.ndarray]]], white: float = 1.0) -> None:
    """Draw rows of (caption, image (H, W)), magnitudes from black at 0 to white, all as wide as another."""
    from matplotlib.figure import Figure

    heights = [CAPTION + WIDTH * max(image.shape[0] / image.shape[1] for _, image in row) for row in rows]
    wide, tall = (WIDTH + GAP) * max(map(len, rows)) + GAP, sum(heights) + GAP
    figure = Figure((wide, tall), dpi=DPI, facecolor="white")
    top = tall
    for row, height in zip(rows, heights, strict=True):
        top -= height
        for column, (caption, image) in enumerate(row):
            left = GAP + column * (WIDTH + GAP)
            axes = figure.add_axes((left / wide, top / tall, WIDTH / wide, (height - CAPTION) / tall))
            axes.imshow(np.abs(image), cmap="gray", vmin=0, vmax=white, interpolation="nearest")
            axes.set_axis_off()
            axes.set_title(caption, fontsize=9.5, loc="left", pad=4)
    figure.savefig(path)


def plot_of(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    """(figure, axes) of so many inches, the axes as an array where there are several, which share their ordinate."""
    from matplotlib.figure import Figure

    figure = Figure((width, height), dpi=120, layout="constrained")
    return figure, figure.subplots(1, columns, sharey=True)
