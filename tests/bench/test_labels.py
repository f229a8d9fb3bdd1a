"""Labels of plots: beside their points, on no other label, point or line."""

from itertools import combinations

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="pictures need the extra `plots`")

from bench.report import labels, pictures


def boxes(texts):
    return [text.get_window_extent().extents for text in texts]


def apart(a, b):
    return a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


@pytest.mark.parametrize("seed", range(3))
def test_labels_of_a_crowd_keep_apart(seed):
    random = np.random.default_rng(seed)
    points = [(f"method {i}, 5 x 12", *place, "k") for i, place in enumerate(random.normal(size=(7, 2)))]
    figure, axes = pictures.plot_of(8, 5)
    (line,) = axes.plot([-3, 3], [-3, 3])
    axes.plot([x for _, x, _, _ in points], [y for _, _, y, _ in points], "o")
    texts = labels.label(axes, points, [line])
    figure.draw_without_rendering()
    found = boxes(texts)
    assert [text.get_text() for text in texts] == [name for name, *_ in points]
    assert all(apart(a, b) for a, b in combinations(found, 2))
    places = axes.transData.transform([(x, y) for _, x, y, _ in points])
    assert all(apart(box, (*place, *place)) for box in found for place in places)
    on_line = axes.transData.transform(np.linspace((-3, -3), (3, 3), 400))
    assert all(apart(box, (*place, *place)) for box in found for place in on_line)
    inside = axes.get_window_extent().extents
    assert all((box[:2] >= inside[:2]).all() and (box[2:] <= inside[2:]).all() for box in found)


def test_a_lone_label_stands_beside_its_point():
    _, axes = pictures.plot_of(4, 3)
    axes.plot([0, 1], [0, 1], "o")
    (text,) = labels.label(axes, [("alone", 0.5, 0.5, "k")])
    place = axes.transData.transform((0.5, 0.5))
    left, bottom, _, top = text.get_window_extent().extents
    assert 0 < left - place[0] < 15
    assert bottom < place[1] < top
