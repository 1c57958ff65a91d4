"""The log: plain lines for a terminal, JSON objects with trace ids otherwise.

A thread formats and writes the lines from a bounded queue, so that a slow reader of the log cannot
block the event loop. Lines that do not fit into the queue are dropped and counted. The thread
writes lines in groups, because waking it for every line would cost more than the line.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import msgspec
from opentelemetry import trace

from gateway.config.telemetry import LogFormat
from gateway.telemetry import semconv
from gateway.telemetry.call_record import CURRENT

_Lines = queue.SimpleQueue[logging.LogRecord | None]
REQUESTS = logging.getLogger("moegate.requests")
"""Logger with one line for each settled request, used if the log is JSON."""
MAX_WAITING_LINES = 10_000
GATHER_S = 0.1
"""Time for which lines are gathered before they are written."""
CLOSE_S = 2.0
"""Longest wait at the end for a reader that does not read."""
MAX_MESSAGE_CHARACTERS = 8_192
PLAIN_REST = "%(levelname)s %(name)s: %(message)s"
"""Format of a plain line after its time and process."""
_SECRETS = (
    # a header or a field, by its name
    re.compile(
        r"""(?ix)
        ( \b bearer \s+
        | \b (?:authorization|x-api-key|api[-_]?key|password|passwd|secret|token)
          ["']? \s* [:=] \s* ["']? (?: (?:bearer|basic) \s+ )?
        )
        [^\s"',;@]{4,}
        """
    ),
    re.compile(r"(://[^\s/:@]*:)[^\s/@]+(?=@)"),  # the password in a URL
    re.compile(r"()\b(?:sk|mg)-[A-Za-z0-9_-]{8,}"),  # keys with a known prefix
)


def redacted(text: str) -> str:
    """Replaces everything in the text that looks like a key or a password."""
    for pattern in _SECRETS:
        text = pattern.sub(r"\1[redacted]", text)
    return text


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object: time, level, logger, message, trace ids, extra
    fields."""

    def __init__(self, process: str = "") -> None:
        """`process`: name of the process, where a gateway has several; empty: left out."""
        super().__init__()
        self._process = {"process": process} if process else {}

    def format(self, record: logging.LogRecord) -> str:
        """Formats the line."""
        at = time.gmtime(record.created)
        line: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', at)}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": redacted(record.getMessage()[:MAX_MESSAGE_CHARACTERS]),
        }
        line |= self._process
        line |= getattr(record, "trace", None) or {}
        line |= getattr(record, "fields", None) or {}
        if record.exc_info:
            line["exception"] = redacted(self.formatException(record.exc_info))
        return msgspec.json.encode(line).decode()


class _RedactedPlain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


class _Queued(logging.Handler):
    """Queues records for the thread, with the trace ids of the current task."""

    def __init__(self, lines: _Lines, on_drop: Callable[[], None]) -> None:
        super().__init__()
        self._lines = lines
        self._on_drop = on_drop

    def emit(self, record: logging.LogRecord) -> None:
        """Queues the record or drops it; never waits. The thread formats the record."""
        if self._lines.qsize() >= MAX_WAITING_LINES:
            self._on_drop()
            return
        call = CURRENT.get()
        if call is not None and call.span is not None:
            found = call.span.get_span_context()
            record.trace = {
                semconv.LOG_TRACE_ID: trace.format_trace_id(found.trace_id),
                semconv.LOG_SPAN_ID: trace.format_span_id(found.span_id),
                semconv.LOG_TRACE_FLAGS: f"{found.trace_flags:02x}",
            }
        self._lines.put(record)


_dropped = 0


def dropped_lines() -> int:
    """Number of dropped lines since the start of the process."""
    return _dropped


def _count_drop() -> None:
    global _dropped
    _dropped += 1


@contextlib.contextmanager
def logging_to(
    stream: TextIO, log_format: LogFormat, level: str, *, process: str = ""
) -> Iterator[None]:
    """Sets up the log of the process. Writes the remaining lines at the end. `process`: name of the
    process in its lines, where a gateway has several."""
    root = logging.getLogger()
    levels = root.level, REQUESTS.level
    root.setLevel(level)
    as_json = log_format is LogFormat.JSON or (log_format is LogFormat.AUTO and not stream.isatty())
    REQUESTS.setLevel(logging.NOTSET if as_json else logging.WARNING)
    plain = f"%(asctime)s {process} {PLAIN_REST}" if process else f"%(asctime)s {PLAIN_REST}"
    form = JsonFormatter(process) if as_json else _RedactedPlain(plain)
    lines: _Lines = queue.SimpleQueue()
    handler = _Queued(lines, _count_drop)
    root.addHandler(handler)
    closing = threading.Event()
    thread = threading.Thread(
        target=_write, args=(lines, form, stream, closing), name="moegate-log", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        root.removeHandler(handler)
        for logger, before in zip((root, REQUESTS), levels, strict=True):
            logger.setLevel(before)
        closing.set()
        lines.put(None)
        thread.join(CLOSE_S)


def _write(
    lines: _Lines, form: logging.Formatter, stream: TextIO, closing: threading.Event
) -> None:
    while (first := lines.get()) is not None:
        closing.wait(GATHER_S)
        text = [_line(form, first)]
        for _ in range(lines.qsize()):
            record = lines.get()
            if record is None:
                lines.put(None)  # written again, to end the loop after these lines
                break
            text.append(_line(form, record))
        with contextlib.suppress(OSError, ValueError):  # the reader has closed the stream
            stream.write("".join(text))
            stream.flush()


def _line(form: logging.Formatter, record: logging.LogRecord) -> str:
    try:
        return form.format(record) + "\n"
    except Exception as error:  # a wrong format must not end the log
        return f"{record.name}: a line that cannot be written: {error!r}\n"


def to_stderr(
    log_format: LogFormat, level: str, *, process: str = ""
) -> contextlib.AbstractContextManager[None]:
    """Sets up the log of `moegate serve`, on standard error. `process`: see `logging_to`."""
    return logging_to(sys.stderr, log_format, level, process=process)
