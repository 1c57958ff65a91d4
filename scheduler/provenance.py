"""Where a figure of an engine comes from."""

from __future__ import annotations

import enum


class Provenance(enum.StrEnum):
    """Source of a figure: the configuration, the engine itself, a computation from other figures of
    the engine, or a default that nobody stated. An unknown figure is None."""

    CONFIGURED = "configured"
    TOLD = "told"
    DERIVED = "derived"
    ASSUMED = "assumed"
    UNKNOWN = "unknown"
