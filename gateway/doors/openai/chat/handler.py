"""`/v1/chat/completions`."""

from __future__ import annotations

from aiohttp import web

from gateway.domain.slices import in_slices
from gateway.doors.http.answers import json_answer, run_stream, run_whole
from gateway.doors.http.exchange import Exchange
from gateway.doors.http.terms import is_session_id
from gateway.doors.openai.chat.answer import PING, ChatEvents, whole_answer
from gateway.doors.openai.chat.body import decode_chat
from gateway.doors.openai.chat.request import generation_steps
from gateway.doors.openai.wire.options import end_user_of


async def chat_completions(exchange: Exchange) -> web.StreamResponse:
    """POST /v1/chat/completions."""
    body = await exchange.body(decode_chat)
    generation = await in_slices(generation_steps(body, exchange))
    session = body.prompt_cache_key or ""
    end_user = end_user_of(body.safety_identifier, body.user)
    stream, usage = bool(body.stream), body.stream_options
    del body  # a large one would stay in memory as long as the stream
    call = await exchange.generate_call(
        generation,
        whole_answer=not stream,
        session_id=session if is_session_id(session) else "",
        end_user=end_user,
    )
    if not stream:
        choices, finished = await run_whole(exchange, call)
        answer = whole_answer(exchange.request_id, generation.model, choices, finished)
        return json_answer(exchange, answer)
    events = ChatEvents(
        exchange.request_id,
        generation.model,
        choices=generation.choices,
        include_usage=usage is not None and bool(usage.include_usage),
    )
    return await run_stream(exchange, call, events, ping=PING)
