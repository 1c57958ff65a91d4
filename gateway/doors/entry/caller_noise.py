"""Bounds what the servers of doors, grpc.aio and aiohttp, log about callers that nobody knows yet.

grpc core writes to stderr by itself, past every logger, and is silenced by `moegate.cli.main`.
"""

from __future__ import annotations

import logging

GRPC_LOGGER = "grpc._cython.cygrpc"
"""Logger of grpc.aio's server. It logs a traceback for each metadata value that is no text."""
HTTP_LOGGER = "aiohttp.server"
"""Logger of aiohttp's server. The HTTP door answers every exception itself, so that this one tells
only of malformed requests, with a traceback for each."""
MAX_CHARACTERS = 200
LINES, IN_S = 5, 10.0
"""Most lines within so many seconds."""
_OF_THE_GATEWAY = "Unexpected ["
"""Beginning of the one message that tells a fault of the gateway: it keeps its traceback."""


class CallerNoise(logging.Filter):
    """Shortens lines, drops tracebacks, and lets LINES pass in IN_S seconds. The next line that
    passes tells how many did not."""

    def __init__(self) -> None:
        super().__init__()
        self._since_unix_s = 0.0
        self._passed = 0
        self._dropped = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is logged."""
        if record.levelno < logging.WARNING:
            return True
        if not 0.0 <= record.created - self._since_unix_s < IN_S:
            self._since_unix_s, self._passed = record.created, 0
        self._passed += 1
        if self._passed > LINES:
            self._dropped += 1
            return False
        message = record.getMessage()
        if not message.startswith(_OF_THE_GATEWAY):
            record.exc_info = record.exc_text = None
        more = f" ({self._dropped} lines before it were dropped)" if self._dropped else ""
        record.msg, record.args = "%s%s", (message[:MAX_CHARACTERS], more)
        self._dropped = 0
        return True


_BOUNDED: dict[str, CallerNoise] = {}
"""The filters in force, by logger."""


def bound_caller_noise(logger: str) -> None:
    """Puts the bounds into force for a logger. Further calls change nothing."""
    if logger not in _BOUNDED:
        _BOUNDED[logger] = CallerNoise()
        logging.getLogger(logger).addFilter(_BOUNDED[logger])
