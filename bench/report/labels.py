"""Names beside the points of a plot, placed so that none covers another, a point, or a line.

A label tries eight directions at growing distances and takes the first place that is free; where none is, the one that
covers least. Labels choose one after the other, in the best of some orders: the most crowded points first, or drawn by
chance. A label far from its point gets a thin line to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
DISTANCES = (9, 13, 18, 25, 34, 46, 60, 76)  # pixels between a point and the nearest edge of its label
LED = 22  # pixels; beyond, a line leads to the point
ORDERS = 40
SPACE = 2.0  # pixels kept free around a label
POINT = 7.0  # pixels, half of a side of the square that a point takes


def label(
    axes: Any, points: Sequence[tuple[str, float, float, str]], lines: Sequence[Any] = (), size: float = 8
) -> list[Any]:
    """Write the names of (name, x, y, colour) beside their points; returns the texts.

    `lines` are Line2D of these axes that labels keep off. Call it last: limits of the axes and layout must not change
    afterwards.
    """
    axes.figure.draw_without_rendering()  # what settles scales and layout
    axes.figure.set_layout_engine("none")
    places = axes.transData.transform([point[1:3] for point in points])
    taken = [_square(place, POINT) for place in places]
    for line in lines:
        corners = axes.transData.transform(line.get_xydata())
        taken += [_square(place, 2.0) for ends in pairwise(corners) for place in _along(*ends)]
    texts = [axes.text(0, 0, name, fontsize=size, color=colour, transform=None) for name, _, _, colour in points]
    sizes = [(text.get_window_extent().width, text.get_window_extent().height) for text in texts]
    inside = axes.get_window_extent().extents
    made = [_placed(order, places, sizes, taken, inside) for order in _orders(places)]
    boxes = min(made, key=lambda one: one[0])[1]
    for text, place, (box, distance) in zip(texts, places, boxes, strict=True):
        text.set(position=(box[0] + SPACE, box[1] + SPACE), va="bottom", ha="left")
        if distance > LED:
            _lead(axes, place, _nearest(box, place))
    return texts


def _orders(places: Any) -> list[Any]:
    """In which labels may choose: the most crowded first, and others."""
    nearness = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1))
    generator = np.random.default_rng(0)
    return [
        np.sort(nearness)[:, :4].sum(axis=1).argsort(),
        *(generator.permutation(len(places)) for _ in range(ORDERS)),
    ]


def _placed(order: Any, places: Any, sizes: Any, taken: list[Any], inside: Any) -> tuple[float, list[Any]]:
    """What labels that choose in this order cover and how far off they are, and (box, distance) of each."""
    boxes: list[Any] = [None] * len(places)
    taken, cost = list(taken), 0.0
    for index in order:
        others = np.reshape([square for number, square in enumerate(taken) if number != index], (-1, 4))
        covered, distance, box = _best(places[index], *sizes[index], others, inside)
        cost += 100 * covered + distance
        boxes[index] = (box, distance)
        taken.append(box)
        if distance > LED:
            taken += [_square(at, 1.0) for at in _along(places[index], _nearest(box, places[index]))]
    return cost, boxes


def _best(place: Any, width: float, height: float, others: Any, inside: Any) -> tuple[float, float, Any]:
    """What it covers, distance, and box of a label, the first that is free or the one that covers least."""
    found = []
    for distance in DISTANCES:
        for across, up in DIRECTIONS:
            reach = distance if across == 0 or up == 0 else distance / math.sqrt(2)
            x = place[0] + across * reach - width * (1 - across) / 2
            y = place[1] + up * reach - height * (1 - up) / 2
            box = np.array([x - SPACE, y - SPACE, x + width + SPACE, y + height + SPACE])
            outside = np.maximum([inside[0] - box[0], inside[1] - box[1], box[2] - inside[2], box[3] - inside[3]], 0)
            covered = float(_overlap(box, others).sum() + 100 * outside.sum())
            if distance > LED:
                way = _along(place, _nearest(box, place))
                squares = np.concatenate([way - 1.0, way + 1.0], axis=1)
                covered += float(_overlap(squares[:, None], others[None]).sum())
            if covered == 0:
                return 0.0, distance, box
            found.append((covered, distance, tuple(box)))
    covered, distance, sides = min(found)
    return covered, distance, np.array(sides)


def _overlap(boxes: Any, others: Any) -> Any:
    """Areas in common of boxes (..., 4) and others, each (left, bottom, right, top)."""
    sides = np.minimum(boxes[..., 2:], others[..., 2:]) - np.maximum(boxes[..., :2], others[..., :2])
    return np.where((sides > 0).all(axis=-1), sides.prod(axis=-1), 0.0)


def _along(start: Any, end: Any) -> Any:
    """Points every four pixels from start to end."""
    return start + (end - start) * np.arange(0, 1, 4 / max(4.0, float(np.hypot(*(end - start)))))[:, None]


def _square(place: Any, half: float) -> Any:
    return np.array([place[0] - half, place[1] - half, place[0] + half, place[1] + half])


def _nearest(box: Any, place: Any) -> Any:
    """The point of a box that is nearest to a place."""
    return np.clip(place, box[:2], box[2:])


def _lead(axes: Any, place: Any, end: Any) -> None:
    from matplotlib.lines import Line2D

    axes.add_artist(
        Line2D((place[0], end[0]), (place[1], end[1]), transform=None, color="0.6", linewidth=0.6, zorder=1)
    )
