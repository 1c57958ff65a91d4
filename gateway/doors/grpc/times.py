"""Times and durations of requests: checked before they are converted.

Protobuf carries values that mean no time: years before 1 or after 9999, nanoseconds beyond a
second, and durations whose parts have different signs. Conversion would fail or wrap.
"""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

FIRST_S, LAST_S = -62_135_596_800, 253_402_300_799
"""Bounds of `google.protobuf.Timestamp`: the years 1 to 9999."""
NANOS = 1_000_000_000
LONGEST_S = 86_400.0
"""Longest duration of any request field, as in the configuration."""


def seconds_of(duration: Duration, least_s: float = 0.0, most_s: float = LONGEST_S) -> float:
    """Returns a duration in seconds. Raises ValueError, with the value and the fix, unless it is
    from `least_s` to `most_s` and above 0."""
    seconds, nanos = duration.seconds, duration.nanos
    if abs(nanos) >= NANOS or seconds * nanos < 0:
        raise ValueError(
            f"{seconds} s and {nanos} ns: give nanos of one sign with seconds, below one second"
        )
    found_s = seconds + nanos / NANOS
    if not (found_s > 0.0 and least_s <= found_s <= most_s):
        lower = f"{least_s:g}" if least_s else "above 0"
        raise ValueError(f"{found_s:g} s: give {lower} to {most_s:g} s")
    return found_s


def microseconds_of(timestamp: Timestamp) -> int:
    """Returns a time in Unix microseconds. Raises ValueError, with the value and the fix, unless it
    is a time of the years 1 to 9999."""
    seconds, nanos = timestamp.seconds, timestamp.nanos
    if not FIRST_S <= seconds <= LAST_S:
        raise ValueError(f"{seconds} s since 1970: give a time of the years 1 to 9999")
    if not 0 <= nanos < NANOS:
        raise ValueError(f"{nanos} nanos: give 0 to {NANOS - 1}")
    return seconds * 1_000_000 + nanos // 1000
