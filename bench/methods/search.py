"""The strength of a regulariser: tried on a list, and refined."""

from __future__ import annotations


def search(candidates, errors_of, levels=(None,), refined=False):
    """The strength and the noise level with the smallest error, errors_of(strengths, level) being those of a list.

    refined: lists whose end is best go on there, at most four strengths, and half a step to either side of the best is
    tried at its level. Nothing is solved where there is one only.
    """
    if len(candidates) * len(levels) == 1:
        return float(candidates[0]), levels[0]
    found, ratio = {}, candidates[-1] / candidates[-2] if refined else None

    def attempt(strengths, level):
        found.update({(level, c): e for c, e in zip(strengths, errors_of(strengths, level), strict=True)})

    for level in levels:
        attempt(candidates, level)
        for _ in range(4 if refined else 0):
            own = {c: e for (at, c), e in found.items() if at == level}
            centre = min(own, key=own.__getitem__)
            if min(own) < centre < max(own):
                break
            attempt([centre / ratio if centre == min(own) else centre * ratio], level)
    level, centre = min(found, key=found.__getitem__)
    if refined:
        attempt([centre / ratio**0.5, centre * ratio**0.5], level)
        level, centre = min(found, key=found.__getitem__)
    return float(centre), level
