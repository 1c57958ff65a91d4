"""The log: JSON with trace ids, secrets redacted, and a reader that stalls."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from gateway.config.telemetry import LogFormat
from gateway.telemetry import logs
from gateway.telemetry.call_record import CURRENT, CallRecord
from gateway.telemetry.logs import logging_to, redacted

log = logging.getLogger("moegate.test")


@pytest.fixture(autouse=True)
def levels_restored() -> Iterator[None]:
    root, requests = logging.getLogger().level, logs.REQUESTS.level
    yield
    logging.getLogger().setLevel(root)
    logs.REQUESTS.setLevel(requests)


def written(log_format: LogFormat, *records: tuple[Any, ...], level: str = "INFO") -> list[str]:
    stream = io.StringIO()
    with logging_to(stream, log_format, level):
        for record in records:
            log.info(*record)
    return stream.getvalue().splitlines()


def test_a_json_line_has_time_level_logger_and_message() -> None:
    [line] = written(LogFormat.JSON, ("%s in\nservice", "own/a"))
    fields = json.loads(line)
    assert fields.pop("time").endswith("Z")
    assert fields == {
        "level": "INFO",
        "logger": "moegate.test",
        "message": "own/a in\nservice",
    }


def test_what_is_not_a_terminal_gets_json_by_default_and_plain_on_demand() -> None:
    assert written(LogFormat.AUTO, ("hello",))[0].startswith("{")
    [line] = written(LogFormat.PLAIN, ("hello",))
    assert line.endswith("INFO moegate.test: hello")


def test_lines_of_an_rpc_carry_its_trace() -> None:
    span = TracerProvider(shutdown_on_exit=False).get_tracer("t").start_span("rpc")
    stream = io.StringIO()
    with logging_to(stream, LogFormat.JSON, "INFO"):
        record = CallRecord("m", 0.0)
        record.span = span
        token = CURRENT.set(record)
        log.info("inside")
        CURRENT.reset(token)
        log.info("outside")
    inside, outside = map(json.loads, stream.getvalue().splitlines())
    assert inside["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert inside["span_id"] == f"{span.get_span_context().span_id:016x}"
    assert "trace_id" not in outside


def test_an_exception_is_one_field() -> None:
    stream = io.StringIO()
    with logging_to(stream, LogFormat.JSON, "INFO"):
        try:
            raise RuntimeError("Bearer mg-very-secret-key")
        except RuntimeError:
            log.exception("an RPC failed")
    [line] = stream.getvalue().splitlines()
    fields = json.loads(line)
    assert "Traceback" in fields["exception"]
    assert "very-secret" not in line


@pytest.mark.parametrize(
    "text",
    [
        "authorization: Bearer SECRET-0123456789",
        'headers {"x-api-key": "SECRET-0123456789"}',
        "api_key=SECRET-0123456789&x=1",
        "password: SECRET-0123456789",
        "postgresql://moegate:SECRET-0123456789@db/ledger",
        "the key sk-SECRET-0123456789 was refused",
        "mg-SECRET-0123456789",
    ],
)
@pytest.mark.parametrize("log_format", [LogFormat.JSON, LogFormat.PLAIN])
def test_secrets_are_redacted(text: str, log_format: LogFormat) -> None:
    [line] = written(log_format, ("%s", text))
    assert "SECRET" not in line
    assert "[redacted]" in line


@pytest.mark.parametrize(
    "text",
    [
        "answered a one-token request",
        "the deadline is too near for a single token",
        "no server of model 'moe' is in service: not probed yet",
        "metrics on http://127.0.0.1:9464/metrics",
        "least predicted work of 2: 0.05 s",
    ],
)
def test_other_text_stays(text: str) -> None:
    assert redacted(text) == text


class Stalled(io.StringIO):
    """A stream whose reader takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()

    def write(self, text: str) -> int:
        self.let_go.wait(60)
        return super().write(text)


def test_a_reader_that_stalls_stalls_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_WAITING_LINES", 50)
    before = logs.dropped_lines()
    stream = Stalled()
    with logging_to(stream, LogFormat.JSON, "INFO"):
        for number in range(200):
            log.info("line %d", number)
        # As many as may wait are in the hands of the writer, with the first of them.
        assert logs.dropped_lines() - before >= 200 - 51 - 50
        stream.let_go.set()
    lines = stream.getvalue().splitlines()
    assert len(lines) + logs.dropped_lines() - before == 200
    assert json.loads(lines[0])["message"] == "line 0"
