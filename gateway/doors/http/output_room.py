"""Output limits that fit into the context, for clients that always ask for a lot.

Agents send the largest output that any model has. An engine refuses a limit that the context does
not leave beside the prompt. Where the room is narrow, the prompt is counted and the limit lowered.
"""

from __future__ import annotations

from msgspec import structs

from gateway.domain.generation import Generation
from gateway.doors.http.answers import http_errors
from gateway.doors.http.errors import ErrorKind, HttpError
from gateway.doors.http.exchange import Exchange

WIDE = 1.5
"""Multiple of the estimated prompt for which the context surely has room."""
SPARE_TOKENS = 16
"""Left free beside a counted prompt."""


async def fitted(exchange: Exchange, generation: Generation) -> Generation:
    """The generation with an output limit that fits into the context. Raises HttpError: the prompt
    leaves no room."""
    pipeline = exchange.services.pipeline
    context = pipeline.context_tokens(generation.model)
    most = generation.max_output_tokens
    if context is None:
        return generation
    admission = pipeline.admission
    if WIDE * admission.estimate(generation, exchange.caller.tenant) + most <= context:
        return generation
    async with http_errors():
        admission.check_model(generation.model, exchange.caller)
        prompt = await admission.count(generation)
    if prompt is None:
        return generation  # no replica can count: the estimate has to do
    room = context - prompt - SPARE_TOKENS
    if room < 1:
        text = f"{prompt} tokens > {context} maximum"
        raise HttpError(ErrorKind.INVALID, text, code="context_length_exceeded")
    return structs.replace(generation, max_output_tokens=min(most, room))
