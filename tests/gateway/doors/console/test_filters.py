"""Formats of what pages show."""

from __future__ import annotations

import re

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from gateway.doors.console.filters import (
    UNKNOWN,
    counted,
    moment,
    number,
    percent,
    seconds,
    short_number,
    usd,
)


@pytest.mark.parametrize(
    ("nano_usd", "shown"),
    [
        (0, "$0.00"),
        (1, "$0.00000000100"),
        (485_467, "$0.000485"),
        (9_999_999, "$0.01000"),
        (10_000_000, "$0.01"),
        (1_234_567_890_000, "$1,234.57"),
        (-5_000_000_000, "\N{MINUS SIGN}$5.00"),
    ],
)
def test_money(nano_usd: int, shown: str) -> None:
    assert re.sub("<[^>]+>", "", usd(nano_usd)) == shown


def test_small_money_has_its_exact_amount_as_title() -> None:
    assert 'title="$0.000485467"' in usd(485_467)


@pytest.mark.parametrize(
    ("span_s", "shown"),
    [(0.0, "0 s"), (0.0503, "50.3 ms"), (0.9999, "1 s"), (12.4, "12.4 s"), (600, "10 min"),
     (36_000, "10.0 h")],
)  # fmt: skip
def test_spans_of_time(span_s: float, shown: str) -> None:
    assert seconds(span_s) == shown
    given = Duration()
    given.FromNanoseconds(round(span_s * 1e9))
    assert seconds(given) == shown


def test_numbers() -> None:
    assert number(1234567) == "1\u202f234\u202f567"
    assert [short_number(n) for n in (0, 999, 1_000, 1_234_567, 5e13)] == [
        *("0", "999", "1k", "1.23M", "50T"),
    ]
    assert percent(0.931) == "93\u202f%"
    assert "2026-11-30 09:00:01" in moment(Timestamp(seconds=1_796_029_201))


def test_counts_agree_with_their_nouns() -> None:
    assert [counted(n, "pool") for n in (0, 1, 2)] == ["0 pools", "1 pool", "2 pools"]
    assert [counted(n, "waits", "wait") for n in (1, 1234)] == ["1 waits", "1\u202f234 wait"]


def test_unknown_is_never_zero() -> None:
    for shown in (usd, seconds, number, percent, short_number, moment):
        assert shown(None) == UNKNOWN
    assert moment(Timestamp()) == UNKNOWN
    assert "unknown" in UNKNOWN
    assert "0" not in UNKNOWN
