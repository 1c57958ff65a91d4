"""Figures of the reports that can be drawn: matplotlib is an extra, and imported only here."""

from __future__ import annotations

from typing import Any


class NoMatplotlib(Exception):
    """matplotlib is not installed; the text has the line that installs it."""


def new_figure(width_in: float, height_in: float) -> Any:
    """An empty `matplotlib.figure.Figure` that lays out its own parts. Raises NoMatplotlib."""
    try:
        import matplotlib.figure
    except ImportError:
        raise NoMatplotlib("--png needs matplotlib: pip install 'moegate[plots]'") from None
    return matplotlib.figure.Figure(figsize=(width_in, height_in), layout="constrained")
