"""`/v1/responses`."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from gateway.domain.generation import Chunk, Message
from gateway.domain.slices import in_slices
from gateway.doors.http.answers import encode, json_answer, run_stream, run_whole
from gateway.doors.http.errors import ErrorKind, HttpError
from gateway.doors.http.exchange import Exchange
from gateway.doors.http.terms import is_session_id
from gateway.doors.openai.responses.body import decode_responses
from gateway.doors.openai.responses.events import ResponseEvents
from gateway.doors.openai.responses.output import Output
from gateway.doors.openai.responses.references import with_referenced
from gateway.doors.openai.responses.request import ENCRYPTED, answer_head, generation_steps
from gateway.doors.openai.responses.stored import ENTRY_BYTES, ResponseStore, StoredResponse
from gateway.doors.openai.wire.options import end_user_of

PING = b": ping\n\n"
RESPONSE_PREFIX = "resp_"


class Responses:
    """The handlers, and the stored responses."""

    def __init__(self, store: ResponseStore) -> None:
        self._store = store

    async def create(self, exchange: Exchange) -> web.StreamResponse:
        """POST /v1/responses."""
        body = await exchange.body(decode_responses)
        before = self._before(body.previous_response_id, exchange)
        body.input, named_bytes = await in_slices(
            with_referenced(body.input, lambda of: self._answer(of, exchange))
        )
        generation = await in_slices(generation_steps(body, before, exchange))
        response_id = RESPONSE_PREFIX + exchange.request_id
        is_stored, stream = body.store is not False, bool(body.stream)
        reasoning = body.reasoning
        output = Output(
            exchange.request_id,
            summarizes=reasoning is not None
            and bool(reasoning.summary or reasoning.generate_summary),
            seals=ENCRYPTED in (body.include or ()),
        )
        head = answer_head(body, response_id, is_stored=is_stored)
        messages = generation.input.messages if is_stored else ()  # type: ignore[union-attr]
        asked = messages[1:] if body.instructions else messages
        session = body.prompt_cache_key or ""
        end_user = end_user_of(body.safety_identifier, body.user)
        size = exchange.body_bytes + named_bytes
        del body  # a large one would stay in memory as long as the stream

        def on_end(response: dict[str, Any]) -> None:
            if is_stored:
                self._keep(response_id, exchange, (*asked, output.message()), response, size)

        events = ResponseEvents(head, output, on_end)
        call = await exchange.generate_call(
            generation,
            whole_answer=not stream,
            session_id=session if is_session_id(session) else "",
            end_user=end_user,
        )
        if stream:
            return await run_stream(exchange, call, events, ping=PING)
        choices, finished = await run_whole(exchange, call)
        events.chunk(Chunk(deltas=tuple(choices), output_tokens=0))
        output.close()
        response = events.response(finished)
        on_end(response)
        return json_answer(exchange, response)

    async def retrieve(self, exchange: Exchange) -> web.Response:
        """GET /v1/responses/{id}. Raises HttpError (NOT_FOUND)."""
        found = self._stored(RESPONSE_PREFIX + exchange.parameters["id"], exchange)
        return web.Response(
            body=found.answer,
            content_type="application/json",
            headers=exchange.answer_headers(),
        )

    async def delete(self, exchange: Exchange) -> web.Response:
        """DELETE /v1/responses/{id}. Raises HttpError (NOT_FOUND)."""
        response_id = RESPONSE_PREFIX + exchange.parameters["id"]
        self._stored(response_id, exchange)
        self._store.remove(response_id, exchange.caller.tenant)
        gone = {"id": response_id, "object": "response", "deleted": True}
        return json_answer(exchange, gone)

    def _found(self, response_id: str, exchange: Exchange) -> StoredResponse | None:
        return self._store.get(response_id, exchange.caller.tenant, exchange.services.clock())

    def _answer(self, request_id: str, exchange: Exchange) -> bytes | None:
        found = self._found(RESPONSE_PREFIX + request_id, exchange)
        return None if found is None else found.answer

    def _before(self, previous: str | None, exchange: Exchange) -> tuple[Message, ...]:
        return self._stored(previous, exchange).messages if previous else ()

    def _stored(self, response_id: str, exchange: Exchange) -> StoredResponse:
        found = self._found(response_id, exchange)
        if found is None:
            text = f"response {response_id[:80]!r} is not stored here: send the whole conversation"
            raise HttpError(
                ErrorKind.NOT_FOUND,
                text,
                code="previous_response_not_found",
                param="previous_response_id",
            )
        return found

    def _keep(
        self,
        response_id: str,
        exchange: Exchange,
        messages: tuple[Message, ...],
        response: dict[str, Any],
        request_bytes: int,
    ) -> None:
        answer = encode(response)
        previous = response["previous_response_id"]
        tenant, now = exchange.caller.tenant, exchange.services.clock()
        before = self._found(previous, exchange) if previous else None
        # The messages of the previous response are counted again, as they outlive it.
        size = ENTRY_BYTES + request_bytes + 2 * len(answer)
        size += 0 if before is None else before.size_bytes
        stored = StoredResponse(
            tenant=tenant, messages=messages, answer=answer, size_bytes=size, stored_s=now
        )
        self._store.put(response_id, stored, exchange.services.active.config.limits)
