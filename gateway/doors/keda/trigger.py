"""The metadata of a KEDA trigger of type `external`: which pool, within which limits."""

from __future__ import annotations

import math
from collections.abc import Mapping

from scheduler.overflow.demand_window import BUCKET_S, MOST_BUCKETS
from scheduler.overflow.replica_count import ReplicaLimits

MOST_REPLICAS = 1000
LONGEST_WINDOW_S = (MOST_BUCKETS - 2) * BUCKET_S
"""Demand of longer ago is forgotten."""


class BadTrigger(ValueError):
    """A field of the metadata cannot be used; the text names field, value and fix."""


def pool_of(metadata: Mapping[str, str]) -> str:
    """The pool that a trigger names. Raises BadTrigger."""
    if not metadata.get("pool"):
        raise BadTrigger("metadata.pool: it is absent: name the pool")
    return metadata["pool"]


def limits_of(metadata: Mapping[str, str]) -> ReplicaLimits:
    """The limits of a trigger: minReplicas, maxReplicas, margin, scaleUpWindowSeconds and
    scaleDownWindowSeconds. KEDA adds fields of its own, which are not read. Raises BadTrigger."""
    default = ReplicaLimits(least=0, most=1)
    most = round(_number(metadata, "maxReplicas", None, 1, MOST_REPLICAS, whole=True))
    return ReplicaLimits(
        least=round(_number(metadata, "minReplicas", 1, 0, most, whole=True)),
        most=most,
        margin=_number(metadata, "margin", default.margin, 0, 1),
        up_window_s=_window_s(metadata, "scaleUpWindowSeconds", default.up_window_s),
        down_window_s=_window_s(metadata, "scaleDownWindowSeconds", default.down_window_s),
    )


def _window_s(metadata: Mapping[str, str], field: str, default: float) -> float:
    return _number(metadata, field, default, BUCKET_S, LONGEST_WINDOW_S)


def _number(
    metadata: Mapping[str, str],
    field: str,
    default: float | None,
    least: float,
    most: float,
    *,
    whole: bool = False,
) -> float:
    text = metadata.get(field, "")
    if not text:
        if default is None:
            raise BadTrigger(f"metadata.{field}: it is absent: give a number")
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most or (whole and value != int(value)):
        kind = "a whole number" if whole else "a number"
        raise BadTrigger(
            f"metadata.{field}: {text[:100]!r}: give {kind} from {least:g} to {most:g}, in quotes"
        )
    return value
