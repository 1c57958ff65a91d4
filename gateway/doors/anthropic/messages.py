"""POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

import msgspec
from aiohttp import web

from gateway.domain.generation import Chat, Chunk, Generation
from gateway.domain.outcomes import Finished
from gateway.domain.request_bounds import MAX_MODEL_CHARS
from gateway.domain.slices import Steps, in_slices
from gateway.doors.anthropic import wire
from gateway.doors.anthropic.answers import MessageEvents, message
from gateway.doors.anthropic.blocks import Event
from gateway.doors.anthropic.budgets import allowed_headers
from gateway.doors.anthropic.errors import error_body
from gateway.doors.anthropic.requests import (
    chat_of,
    end_user_of,
    sampling_of,
    session_of,
    shows_thinking,
    stops_of,
)
from gateway.doors.http.answers import http_errors, json_answer, run_stream, run_whole
from gateway.doors.http.errors import HttpError, all_invalid
from gateway.doors.http.exchange import Exchange
from gateway.doors.http.sse import event
from gateway.translation.chat_input import EnoughFaults, Violations

_decode = msgspec.json.Decoder(wire.MessagesBody).decode
_encode = msgspec.json.Encoder().encode
_PING = event("ping", b'{"type": "ping"}')


async def create_message(exchange: Exchange) -> web.StreamResponse:
    """Answers with one message, or with the events of a stream."""
    standings, caller = exchange.services.standings, exchange.caller
    standings.refresh(caller)
    exchange.good_headers = lambda: allowed_headers(standings.known(caller))
    body = await exchange.body(_decode)
    generation = await in_slices(_generation(body, exchange))
    call = await exchange.generate_call(
        generation,
        whole_answer=not body.stream,
        session_id=session_of(body),
        end_user=end_user_of(body),
    )
    message_id = f"msg_{exchange.request_id}"
    show_thinking = shows_thinking(body)
    if body.stream:
        events = MessageEvents(
            message_id,
            body.model,
            call.prompt_tokens or 0,
            stops=generation.stop,
            show_thinking=show_thinking,
        )
        return await run_stream(exchange, call, _Stream(events, exchange.request_id), ping=_PING)
    choices, finished = await run_whole(exchange, call)
    answer = message(
        message_id,
        body.model,
        choices,
        finished,
        stops=generation.stop,
        show_thinking=show_thinking,
    )
    return json_answer(exchange, answer)


async def count_tokens(exchange: Exchange) -> web.StreamResponse:
    """Counts the tokens of a prompt with a replica's tokenizer; an estimate if none can count."""
    body = await exchange.body(_decode)
    generation = await in_slices(_generation(body, exchange, counted=True))
    admission = exchange.services.pipeline.admission
    async with http_errors():
        admission.check_model(generation.model, exchange.caller)
        counted = await admission.count(generation)
    if counted is None:
        counted = await admission.estimate(generation, exchange.caller.tenant)
    return json_answer(exchange, {"input_tokens": counted})


def _generation(
    body: wire.MessagesBody, exchange: Exchange, *, counted: bool = False
) -> Steps[Generation]:
    """Checks and converts a body. Raises HttpError that names every field at fault."""
    violations = Violations()
    fault = violations.add
    chat, sampling, most = Chat(messages=()), None, 1
    stops: tuple[str, ...] = ()
    try:
        if not 0 < len(body.model) <= MAX_MODEL_CHARS:
            fault("model", f"{len(body.model)} characters: give 1 to {MAX_MODEL_CHARS}")
        if body.max_tokens is None and not counted:
            fault("max_tokens", "missing: say how many tokens the answer may have")
        elif body.max_tokens is not None and body.max_tokens < 1:
            fault("max_tokens", f"{body.max_tokens}: give at least 1")
        else:
            most = exchange.output_tokens(body.model, body.max_tokens, 1, "max_tokens")
        if body.safeguards != wire.NOTHING:
            fault("safeguards", "no server here runs them: leave the field out")
        limits = exchange.services.active.config.limits.elements
        chat = yield from chat_of(body, limits, fault)
        sampling = sampling_of(body, fault)
        stops = stops_of(body.stop_sequences, fault)
    except EnoughFaults:
        pass
    if violations or sampling is None:
        raise all_invalid(violations)
    return Generation(
        request_id=exchange.request_id,
        model=body.model,
        input=chat,
        max_output_tokens=most,
        sampling=sampling,
        stop=stops,
    )


class _Stream:
    """The events of a stream as bytes."""

    def __init__(self, events: MessageEvents, request_id: str) -> None:
        self._events = events
        self._request_id = request_id

    def opening(self) -> bytes:
        """The first event."""
        return _framed([self._events.start()])

    def chunk(self, chunk: Chunk) -> bytes:
        """New output."""
        return _framed(self._events.add(chunk))

    def finished(self, finished: Finished) -> bytes:
        """The last events."""
        return _framed(self._events.end(finished))

    def failed(self, error: HttpError) -> bytes:
        """The event of an error, after which the stream ends."""
        return event("error", error_body(error, self._request_id))


def _framed(events: list[Event]) -> bytes:
    return b"".join(event(each["type"], _encode(each)) for each in events)
