"""One request at an HTTP door, as the handlers of a dialect see it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from aiohttp import web
from msgspec.structs import replace

from gateway.auth.authenticator import Caller
from gateway.batch.port import BatchPort
from gateway.delivery.deliveries import Deliveries
from gateway.delivery.watches import Watches
from gateway.domain.failures import UpstreamFailure
from gateway.domain.generation import Generation
from gateway.domain.outcomes import Finished, RequestRefused
from gateway.domain.tags import is_end_user
from gateway.doors.entry.active_settings import ActiveSettings
from gateway.doors.entry.budget_standings import BudgetStandings
from gateway.doors.http.errors import ErrorKind, HttpError, from_outcome, invalid
from gateway.doors.http.request_body import parse_body, receive_body
from gateway.doors.http.sse import SilentStreams
from gateway.doors.http.terms import Terms
from gateway.pipeline.call import GenerateCall
from gateway.pipeline.hints import trace_headers
from gateway.pipeline.pipeline import Pipeline
from scheduler.contract import Start
from scheduler.port import SchedulerPort

T = TypeVar("T")
WIDE = 1.5
"""Multiple of the estimated prompt for which the context surely has room."""
SPARE_TOKENS = 16
"""Left free beside the prompt."""
LEAST_OUTPUT_TOKENS = 64
"""Least room that is believed where no replica can count the prompt."""
ESTIMATE_ERROR = 1.03
"""Multiple of the estimated prompt that is believed where no replica can count it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The parts of the gateway that HTTP doors use."""

    active: ActiveSettings
    pipeline: Pipeline
    port: SchedulerPort
    deliveries: Deliveries
    watches: Watches
    silences: SilentStreams
    standings: BudgetStandings
    clock: Callable[[], float]
    batches: BatchPort


class CallMade(Exception):
    """The call of an exchange that is only quoted."""

    def __init__(self, call: GenerateCall) -> None:
        super().__init__()
        self.call = call


@dataclass(slots=True, kw_only=True, eq=False)
class Exchange:
    """A request with a known key.

    Attributes:
        request: the request; its body is read by `body`. None: the exchange is an item of a batch,
            whose body is `given_body`.
        terms: terms of service from the headers.
        parameters: parts of the path, by the names in braces of the route.
        request_id: id of the request, in the answer's headers and for Explain.
        body_bytes: size of the body; 0 before it is read.
        headers: further headers of the answer, whatever it is.
        good_headers: further headers of an answer that is no error, made when it begins.
        start: the last placement that the request was sent to; None: none yet.
        failed: what ended a stream after its status line; None: nothing.
        finished: the summary of a generation that succeeded; None: none yet.
        is_quoted: the call is made, and not run: `generate_call` raises `CallMade`.
        default_end_user: of an item of a batch that names none.
        on_start: called as `GenerateCall.on_start`; None: nobody asks.
    """

    request: web.BaseRequest | None
    caller: Caller
    services: Services
    terms: Terms
    parameters: Mapping[str, str]
    request_id: str
    body_bytes: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    good_headers: Callable[[], Mapping[str, str]] = dict
    start: Start | None = None
    failed: HttpError | None = None
    finished: Finished | None = None
    given_body: bytes = b""
    default_end_user: str = ""
    is_quoted: bool = False
    on_start: Callable[[Start], None] | None = None

    async def body(self, decode: Callable[[bytes], T], *, has_token_ids: bool = False) -> T:
        """Receives the body and parses it. `decode`: a msgspec decoder's. `has_token_ids`: whether
        prompts may be lists of them. Raises HttpError."""
        limits = self.services.active.config.limits
        if self.request is None:
            raw = self.given_body
        else:
            raw = await receive_body(self.request, self.caller.body_bytes, limits.request_s)
        self.body_bytes = len(raw)
        token_ids = limits.elements.token_ids if has_token_ids else 0
        return await parse_body(raw, decode, limits.elements, token_ids)

    def output_tokens(self, model: str, asked: int | None, choices: int, field: str) -> int:
        """Output limit of a request. `asked`: what it asks for; None: it sets none. `field`: its
        path, for errors.

        Agents ask for the most that any model gives. It is a bound, so that it is lowered to what
        the model and the key allow. Raises HttpError (INVALID) for less than 1.
        """
        pipeline = self.services.pipeline
        if asked is None:
            return pipeline.default_output_tokens(model, self.caller, choices)
        if asked < 1:
            raise invalid(field, f"{asked}: give at least 1, or leave it out")
        return min(asked, pipeline.most_output_tokens(model, self.caller, choices))

    async def generate_call(
        self,
        generation: Generation,
        *,
        whole_answer: bool,
        session_id: str = "",
        end_user: str | None = "",
    ) -> GenerateCall:
        """Makes the pipeline's call. `session_id`, `end_user`: the conversation, and whom the
        caller acts for, by the body, if no header names them; an end user that cannot be kept is
        none. Raises HttpError: the prompt leaves no room for an answer."""
        terms = self.terms
        admission = self.services.pipeline.admission
        estimate = await admission.estimate(generation, self.caller.tenant)
        generation = await self._fitted(replace(generation, hops=terms.hops), estimate)
        call = GenerateCall(
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
            end_user=terms.end_user or self._end_user(end_user),
            labels_json=terms.labels_json,
            idempotency_key=terms.idempotency_key,
            max_cost_nano_usd=terms.max_cost_nano_usd,
            batch_item=self.request is None,
            trace_headers=(
                () if self.request is None else trace_headers(lower_items(self.request.headers))
            ),
            prompt_tokens=estimate,
            on_start=self._started,
        )
        if self.is_quoted:
            raise CallMade(call)
        return call

    def _end_user(self, by_body: str | None) -> str:
        return by_body if by_body and is_end_user(by_body) else self.default_end_user

    async def _fitted(self, generation: Generation, estimate: int) -> Generation:
        """Lowers the output limit to what the context leaves beside the prompt: engines refuse a
        limit that does not fit. Where the room is narrow, a replica counts the prompt. `estimate`:
        of the prompt's tokens."""
        pipeline = self.services.pipeline
        context = pipeline.context_tokens(generation.model)
        if context is None or not generation.max_output_tokens:
            return generation
        most = generation.max_output_tokens
        if WIDE * estimate + most <= context:
            return generation
        try:
            pipeline.admission.check_model(generation.model, self.caller)
            prompt = await pipeline.admission.count(generation)
        except (RequestRefused, UpstreamFailure) as error:
            raise from_outcome(error) from error
        counted = prompt is not None
        if prompt is None:
            prompt = math.ceil(ESTIMATE_ERROR * estimate)
        room = context - prompt - SPARE_TOKENS
        if not counted and room < LEAST_OUTPUT_TOKENS:
            return generation  # the estimate may be wrong: the engine knows
        if room < 1:
            text = f"{prompt} tokens > {context} maximum"
            raise HttpError(ErrorKind.INVALID, text, code="context_length_exceeded")
        if room >= most:
            return generation
        least = min(generation.min_tokens, room)
        return replace(generation, max_output_tokens=room, min_tokens=least)

    def model_names(self) -> list[str]:
        """Models and LoRA adapters that the key may use."""
        return sorted(filter(self.caller.allows_model, self.services.port.fleet.by_model))

    def named_model(self) -> str:
        """The model that the path names. Raises HttpError (NOT_FOUND)."""
        name = self.parameters["model"]
        if name not in self.model_names():
            text = f"model {name[:256]!r} is not served here: see /v1/models"
            raise HttpError(ErrorKind.NOT_FOUND, text, code="model_not_found", param="model")
        return name

    def largest_context(self, model: str) -> int | None:
        """Largest context of the model's placements, as far as it is known; None: of none."""
        placements = self.services.port.fleet.of_model(model)
        known = [each.context_tokens for each in placements if each.context_tokens is not None]
        return max(known, default=None)

    def answer_headers(self) -> dict[str, str]:
        """Headers that every answer has: the request's id and, where known, its placement and why
        it was chosen."""
        found = id_headers(self.request_id) | self.headers
        if self.start is not None:
            found["x-moegate-placement"] = header_text(self.start.placement)
            found["x-moegate-reason"] = header_text(self.start.reason)
        return found

    def headers_of_good_answer(self) -> dict[str, str]:
        """Headers of an answer that is no error."""
        return self.answer_headers() | dict(self.good_headers())

    def _started(self, start: Start) -> None:
        self.start = start
        if self.on_start is not None:
            self.on_start(start)


def id_headers(request_id: str) -> dict[str, str]:
    """Headers of every answer: the request's id by the names that OpenAI and Anthropic have for it,
    and no version of a server."""
    return {"x-request-id": request_id, "request-id": request_id, "Server": "moegate"}


def lower_items(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Headers as pairs, with names in lower case."""
    return tuple((name.lower(), value) for name, value in headers.items())


def header_text(text: str) -> str:
    """The text as the value of a header: ASCII on one line."""
    shown = text if text.isascii() and text.isprintable() else ascii(text)[1:-1]
    return shown[:500]
