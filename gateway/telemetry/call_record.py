"""The record of a call at a door: what its span, its request and its log lines share."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

from opentelemetry.context import Context as TraceContext
from opentelemetry.trace import Span
from opentelemetry.util.types import AttributeValue

OnEnd = Callable[[str, str, float], None]
"""Takes the status by name ("OK" where the call went well), its detail, and seconds."""


class CallRecord:
    """A call that runs. `span` is None without a tracer; `context` is the one it lives in."""

    __slots__ = ("attributes", "context", "method", "on_end", "span", "started_s")

    def __init__(self, method: str, started_s: float) -> None:
        self.method = method
        self.started_s = started_s
        self.span: Span | None = None
        self.context: TraceContext | None = None
        self.attributes: dict[str, AttributeValue] | None = None
        """Given to the span all at once, at its end; None where it is not recorded."""
        self.on_end: OnEnd | None = None
        """Called at its end."""


CURRENT: ContextVar[CallRecord | None] = ContextVar("moegate_call", default=None)
"""The call of this task: each call runs in a task of its own."""
