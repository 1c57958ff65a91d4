"""Lines of grpc.aio's logger: few, short, without tracebacks, but for the gateway's own faults."""

from __future__ import annotations

import logging
import sys

from gateway.doors.entry.caller_noise import IN_S, LINES, MAX_CHARACTERS, CallerNoise


def record(message: str, *args: object, at_s: float = 0.0) -> logging.LogRecord:
    try:
        raise ValueError("seen")
    except ValueError:
        fault = sys.exc_info()
    made = logging.LogRecord("grpc", logging.ERROR, "", 0, message, args, fault)
    made.created = 1000.0 + at_s
    return made


def test_a_line_is_short_and_has_no_traceback() -> None:
    line = record("Invalid encoding on %s", b"\xff" * 9000)
    assert CallerNoise().filter(line)
    assert line.exc_info is None
    assert line.getMessage().startswith("Invalid encoding on b'\\xff")
    assert len(line.getMessage()) == MAX_CHARACTERS


def test_a_fault_of_the_gateway_keeps_its_traceback() -> None:
    line = record("Unexpected [KeyError] raised by servicer method [/m/M]")
    assert CallerNoise().filter(line)
    assert line.exc_info is not None


def test_so_many_lines_pass_and_the_next_one_tells_how_many_did_not() -> None:
    noise = CallerNoise()
    passed = [noise.filter(record("x", at_s=i / 100)) for i in range(50)]
    assert passed == [True] * LINES + [False] * (50 - LINES)
    later = record("%s%%", "100", at_s=IN_S + 1)
    assert noise.filter(later)
    assert later.getMessage() == f"100% ({50 - LINES} lines before it were dropped)"
    assert noise.filter(after := record("y", at_s=IN_S + 2))
    assert after.getMessage() == "y"


def test_a_clock_that_goes_back_stops_no_line() -> None:
    noise = CallerNoise()
    assert all(noise.filter(record("x", at_s=1e6)) for _ in range(LINES))
    assert noise.filter(record("x", at_s=0.0))
