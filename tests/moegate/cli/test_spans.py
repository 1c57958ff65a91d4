"""Windows as people type them."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

import pytest

from moegate.cli.spans import add_window_arguments, parse_period, set_window
from moegate.v1 import usage_pb2

NOW = datetime(2026, 1, 15, 12, 30, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", NOW.timestamp)


@pytest.mark.parametrize(
    ("text", "begin", "end"),
    [
        ("2025", "2025-01-01", "2026-01-01"),
        ("2025-Q4", "2025-10-01", "2026-01-01"),
        ("2025q1", "2025-01-01", "2025-04-01"),
        ("2025-12", "2025-12-01", "2026-01-01"),
        ("last-month", "2025-12-01", "2026-01-01"),
        ("2025-12-31", "2025-12-31", "2026-01-01"),
        ("this-month", "2026-01-01", None),
        ("2026", "2026-01-01", None),
    ],
)
def test_a_period_has_a_begin_and_an_end(text: str, begin: str, end: str | None) -> None:
    found = parse_period(text)
    assert datetime.fromtimestamp(found[0], UTC).date().isoformat() == begin
    ends = None if found[1] is None else datetime.fromtimestamp(found[1], UTC).date().isoformat()
    assert ends == end


@pytest.mark.parametrize("text", ["2025-13", "2025-00", "march", "2025-Q5", "2025-02-30"])
def test_what_is_no_period_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="such as 2026-03-07"):
        parse_period(text)


def test_times_are_moved_to_the_hour_where_accounts_are_kept_by_the_hour() -> None:
    parser = argparse.ArgumentParser()
    add_window_arguments(parser)
    request = usage_pb2.GetStatementRequest()
    set_window(request, parser.parse_args(["--since", "90m"]), whole_hours=True)
    assert getattr(request, "from").ToJsonString() == "2026-01-15T11:00:00Z"
    assert not request.HasField("to")
