"""Events of one streamed response, from `response.created` to `response.completed`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from gateway.domain.generation import Chunk, FinishReason
from gateway.domain.outcomes import Finished
from gateway.doors.http.errors import HttpError
from gateway.doors.openai.responses.output import OPENING_EVENTS, Output, numbered
from gateway.doors.openai.wire.errors import error_object
from gateway.doors.openai.wire.usage import responses_usage

_CUT = {
    FinishReason.LENGTH: "max_output_tokens",
    FinishReason.CONTENT_FILTER: "content_filter",
}


class ResponseEvents:
    """The events, and the response that they describe. `on_end` receives the whole response."""

    def __init__(
        self, head: dict[str, Any], output: Output, on_end: Callable[[dict[str, Any]], None]
    ) -> None:
        self._head = head
        self._output = output
        self._on_end = on_end
        self._finish = FinishReason.STOP

    def opening(self) -> bytes:
        """The response begins."""
        kinds = ("response.created", "response.in_progress")
        assert len(kinds) == OPENING_EVENTS
        return b"".join(numbered(kind, i, response=self._head) for i, kind in enumerate(kinds))

    def chunk(self, chunk: Chunk) -> bytes:
        """New output."""
        told = b""
        for delta in chunk.deltas:
            if delta.index == 0:
                told += self._output.add(delta)
                self._finish = delta.finish_reason or self._finish
        return told

    def finished(self, finished: Finished) -> bytes:
        """The end of the output, and the whole response."""
        told = self._output.close()
        response = self.response(finished)
        self._on_end(response)
        return told + self._output.event(f"response.{response['status']}", response=response)

    def failed(self, error: HttpError) -> bytes:
        """The response broke off."""
        found = error_object(error)
        failure = {"code": "server_error", "message": found["message"]}
        response = self._head | {
            "status": "failed",
            "error": failure,
            "output": self._output.items,
        }
        return self._output.event("response.failed", response=response)

    def response(self, finished: Finished) -> dict[str, Any]:
        """The whole response."""
        reason = _CUT.get(self._finish)
        return self._head | {
            "status": "completed" if reason is None else "incomplete",
            "completed_at": int(time.time()) if reason is None else None,
            "incomplete_details": None if reason is None else {"reason": reason},
            "output": self._output.items,
            "usage": responses_usage(finished),
        }
