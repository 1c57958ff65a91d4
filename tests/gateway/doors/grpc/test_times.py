"""Times and durations of requests: what means no time is refused, with the value and the fix."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from gateway.doors.grpc.times import microseconds_of, seconds_of

INT64 = st.integers(-(2**63), 2**63 - 1)
INT32 = st.integers(-(2**31), 2**31 - 1)


@pytest.mark.parametrize(
    ("seconds", "nanos", "words"),
    [
        (0, 0, "0 s: give above 0 to 86400 s"),
        (-1, 0, "-1 s: give above 0"),
        (0, -1, "-1e-09 s: give above 0"),
        (2**63 - 1, 0, "give above 0 to 86400 s"),
        (1, 1_000_000_000, "below one second"),
        (1, -1, "of one sign"),
        (-1, 1, "of one sign"),
    ],
)
def test_a_duration_that_is_none_is_refused(seconds: int, nanos: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        seconds_of(Duration(seconds=seconds, nanos=nanos))


def test_durations_have_bounds_of_their_field() -> None:
    assert seconds_of(Duration(nanos=100_000_000), 0.1, 60.0) == 0.1
    with pytest.raises(ValueError, match=r"0\.05 s: give 0\.1 to 60 s"):
        seconds_of(Duration(nanos=50_000_000), 0.1, 60.0)


@given(INT64, INT32)
def test_every_duration_is_a_time_or_refused(seconds: int, nanos: int) -> None:
    try:
        found_s = seconds_of(Duration(seconds=seconds, nanos=nanos))
    except ValueError:
        return
    assert 0.0 < found_s <= 86_400.0


@pytest.mark.parametrize(
    ("seconds", "nanos", "words"),
    [
        (-62_135_596_801, 0, "years 1 to 9999"),
        (253_402_300_800, 0, "years 1 to 9999"),
        (-(2**63), 0, "years 1 to 9999"),
        (0, -1, "nanos"),
        (0, 1_000_000_000, "nanos"),
    ],
)
def test_a_timestamp_that_is_none_is_refused(seconds: int, nanos: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        microseconds_of(Timestamp(seconds=seconds, nanos=nanos))


@given(st.datetimes(timezones=st.just(UTC)))
def test_every_time_of_the_calendar_is_taken(at: datetime) -> None:
    stamp = Timestamp()
    stamp.FromDatetime(at)
    since = at - datetime(1970, 1, 1, tzinfo=UTC)
    assert microseconds_of(stamp) == since // timedelta(microseconds=1)


@given(INT64, INT32)
def test_every_timestamp_is_a_time_or_refused(seconds: int, nanos: int) -> None:
    try:
        found_us = microseconds_of(Timestamp(seconds=seconds, nanos=nanos))
    except ValueError:
        return
    assert abs(found_us) < 2**62
