"""One request at an HTTP door, as the handlers of a dialect see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from aiohttp import web

from gateway.auth.authenticator import Caller
from gateway.delivery.deliveries import Deliveries
from gateway.delivery.watches import Watches
from gateway.domain.generation import Generation
from gateway.doors.entry.active_settings import ActiveSettings
from gateway.doors.http.errors import HttpError
from gateway.doors.http.request_body import parse_body, receive_body
from gateway.doors.http.sse import SilentStreams
from gateway.doors.http.terms import Terms
from gateway.pipeline.call import GenerateCall
from gateway.pipeline.hints import trace_headers
from gateway.pipeline.pipeline import Pipeline
from scheduler.contract import Start
from scheduler.port import SchedulerPort

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The parts of the gateway that HTTP doors use."""

    active: ActiveSettings
    pipeline: Pipeline
    port: SchedulerPort
    deliveries: Deliveries
    watches: Watches
    silences: SilentStreams
    clock: Callable[[], float]


@dataclass(slots=True, kw_only=True, eq=False)
class Exchange:
    """A request with a known key.

    Attributes:
        request: the request; its body is read by `body`.
        terms: terms of service from the headers.
        parameters: parts of the path, by the names in braces of the route.
        request_id: id of the request, in the answer's headers and for Explain.
        body_bytes: size of the body; 0 before it is read.
        headers: further headers of the answer, whatever it is.
        start: the last placement that the request was sent to; None: none yet.
        failed: what ended a stream after its status line; None: nothing.
    """

    request: web.BaseRequest
    caller: Caller
    services: Services
    terms: Terms
    parameters: Mapping[str, str]
    request_id: str
    body_bytes: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    start: Start | None = None
    failed: HttpError | None = None

    async def body(self, decode: Callable[[bytes], T]) -> T:
        """Receives the body and parses it. `decode`: a msgspec decoder's. Raises HttpError."""
        limits = self.services.active.config.limits
        raw = await receive_body(self.request, self.caller.body_bytes, limits.request_s)
        self.body_bytes = len(raw)
        return await parse_body(raw, decode, limits.elements)

    def default_output_tokens(self, model: str, choices: int) -> int:
        """Output limit of a request that sets none."""
        return self.services.pipeline.default_output_tokens(model, self.caller, choices)

    def generate_call(
        self, generation: Generation, *, whole_answer: bool, session_id: str = ""
    ) -> GenerateCall:
        """Makes the pipeline's call. `session_id`: the conversation by the body, if no header names
        one."""
        terms = self.terms
        return GenerateCall(
            generation=generation,
            caller=self.caller,
            remaining_s=terms.remaining_s,
            size_bytes=self.body_bytes,
            whole_answer=whole_answer,
            slo_class=terms.slo_class,
            ttft_s=terms.ttft_s,
            tpot_s=terms.tpot_s,
            priority=terms.priority,
            local_only=terms.local_only,
            remote_classes=terms.remote_classes,
            session_id=terms.session_id or session_id,
            idempotency_key=terms.idempotency_key,
            max_cost_nano_usd=terms.max_cost_nano_usd,
            trace_headers=trace_headers(lower_items(self.request.headers)),
            on_start=self._started,
        )

    def answer_headers(self) -> dict[str, str]:
        """Headers that every answer has: the request's id and, where known, its placement and why
        it was chosen."""
        found = {
            "x-request-id": self.request_id,
            "request-id": self.request_id,
            **self.headers,
        }
        if self.start is not None:
            found["x-moegate-placement"] = header_text(self.start.placement)
            found["x-moegate-reason"] = header_text(self.start.reason)
        return found

    def _started(self, start: Start) -> None:
        self.start = start


def lower_items(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Headers as pairs, with names in lower case."""
    return tuple((name.lower(), value) for name, value in headers.items())


def header_text(text: str) -> str:
    """The text as the value of a header: ASCII on one line."""
    shown = text if text.isascii() and text.isprintable() else ascii(text)[1:-1]
    return shown[:500]
