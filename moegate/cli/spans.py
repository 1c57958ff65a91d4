"""Windows of reports as people type them: 30d, 2026-03, 2026-Q1, 2026, or two times."""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime
from typing import Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from gateway.accounting.reports.named_periods import EXAMPLES, named_period, span_s

HOUR_S = 3600


class WindowRequest(Protocol):
    """A request with the fields `from` and `to`."""

    @property
    def to(self) -> Timestamp:
        """The end."""


def add_window_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares --since, --until and --in."""
    parser.add_argument(
        "--since", type=parse_time, metavar="WHEN", help="30d, 12h, or 2026-11-01 (30 days ago)"
    )
    parser.add_argument("--until", type=parse_time, metavar="WHEN", help="the same (now)")
    parser.add_argument(
        "--in",
        dest="within",
        type=parse_period,
        metavar="PERIOD",
        help="a day, month, quarter or year in place of both: 2026-03-07, 2026-03, 2026-Q1, 2026;"
        " this-month, last-month",
    )


def set_window(
    request: WindowRequest, args: argparse.Namespace, *, whole_hours: bool = False
) -> None:
    """Sets `from` and `to` of a request from the arguments. `whole_hours`: a time since which, or
    until when, is moved to the hour that it is in."""
    since_s, until_s = args.within or (args.since, args.until)
    for name, unix_s in (("from", since_s), ("to", until_s)):
        if unix_s is not None:
            if whole_hours:
                unix_s -= unix_s % HOUR_S
            getattr(request, name).FromMicroseconds(round(unix_s * 1e6))


def parse_time(text: str) -> float:
    """Parses a time, such as 30d (30 days ago) or a date or time in UTC. Returns Unix seconds."""
    ago_s = span_s(text)
    if ago_s is not None:
        return time.time() - ago_s
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            "such as 30d, 12h, 2026-11-01 or 2026-11-01T12:00"
        ) from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def parse_period(text: str) -> tuple[float, float | None]:
    """Parses a day, month, quarter or year. Returns its begin and end in Unix seconds; the end of
    a period that still runs is None, which is now."""
    now_s = time.time()
    try:
        begin, end = named_period(text, datetime.fromtimestamp(now_s, UTC))
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text}: such as {EXAMPLES}") from None
    until_s = end.timestamp()
    return begin.timestamp(), until_s if until_s <= now_s else None
