"""Small charts of the last minutes, as the points of an SVG polyline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 120, 28
_EDGE = 2


@dataclass(frozen=True, slots=True)
class Sparkline:
    """A line. `points`: of a polyline in a box of WIDTH by HEIGHT. `top`: value of its upper
    edge."""

    points: str
    top: float
    least: float
    most: float


def sparkline(values: Sequence[float], *, least_top: float = 0.0) -> Sparkline:
    """Makes a line of values, oldest first, from 0 up. `least_top`: least value of the upper
    edge."""
    shown = list(values) or [0.0]
    top = max(*shown, least_top, 1e-9)
    step = WIDTH / max(1, len(shown) - 1)
    height = HEIGHT - 2 * _EDGE
    points = " ".join(
        f"{number * step:.1f},{HEIGHT - _EDGE - height * max(0.0, value) / top:.1f}"
        for number, value in enumerate(shown)
    )
    return Sparkline(points, top, min(shown), max(shown))
