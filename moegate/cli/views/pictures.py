"""Creates figures. matplotlib is an optional dependency and is imported only here."""

from __future__ import annotations

from typing import Any


class NoMatplotlib(Exception):
    """matplotlib is not installed. The text has the command that installs it."""


def new_figure(width_in: float, height_in: float) -> Any:
    """Makes an empty `matplotlib.figure.Figure` with automatic layout. Raises NoMatplotlib."""
    try:
        import matplotlib.figure
    except ImportError:
        raise NoMatplotlib("--png needs matplotlib: pip install 'moegate[plots]'") from None
    return matplotlib.figure.Figure(figsize=(width_in, height_in), layout="constrained")
