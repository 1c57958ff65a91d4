"""The record of a call at a door, shared by its span, its request and its log lines."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

from opentelemetry.context import Context as TraceContext
from opentelemetry.trace import Span
from opentelemetry.util.types import AttributeValue

OnEnd = Callable[[str, str, float], None]
"""Receives the name of the status ("OK" for success), its detail, and the seconds."""


class CallRecord:
    """A running call. `span`: None without a tracer; `context`: the trace context of the call."""

    __slots__ = ("attributes", "context", "method", "on_end", "span", "started_s")

    def __init__(self, method: str, started_s: float) -> None:
        self.method = method
        self.started_s = started_s
        self.span: Span | None = None
        self.context: TraceContext | None = None
        self.attributes: dict[str, AttributeValue] | None = None
        """Set on the span at its end; None if the span is not recorded."""
        self.on_end: OnEnd | None = None
        """Called at the end of the call."""


CURRENT: ContextVar[CallRecord | None] = ContextVar("moegate_call", default=None)
"""The call of the current task: each call has its own task."""
