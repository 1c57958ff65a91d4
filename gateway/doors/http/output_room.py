"""Output limits that fit, for clients that always ask for a lot.

Agents send the largest output that any model has, whatever the model here. The limit is a bound,
not a need: it is lowered to what the gateway and the key allow, and to what the context leaves
beside the prompt.
"""

from __future__ import annotations

from msgspec import structs

from gateway.domain.generation import Generation
from gateway.doors.http.answers import http_errors
from gateway.doors.http.errors import ErrorKind, HttpError
from gateway.doors.http.exchange import Exchange

WIDE = 1.5
"""Multiple of the estimated prompt up to which the context surely has room."""
SPARE_TOKENS = 16
"""Left free beside a counted prompt."""


async def fitted(exchange: Exchange, generation: Generation) -> Generation:
    """The generation with an output limit that fits. The prompt's tokens are counted only where the
    room is narrow. Raises HttpError: the prompt leaves no room."""
    services = exchange.services
    bounds = [generation.max_output_tokens, services.pipeline.settings.max_output_tokens]
    if exchange.caller.max_output_tokens is not None:
        bounds.append(exchange.caller.max_output_tokens)
    most = max(1, min(bounds) if generation.choices == 1 else _share(bounds, generation.choices))
    contexts = [
        placement.context_tokens
        for placement in services.port.fleet.of_model(generation.model)
        if placement.context_tokens is not None
    ]
    if contexts:
        most = min(most, await _room(exchange, generation, most, max(contexts)))
    return structs.replace(generation, max_output_tokens=most)


def _share(bounds: list[int], choices: int) -> int:
    """The limit of each choice: the bounds of gateway and key are for all together."""
    return min(bounds[0], *(each // choices for each in bounds[1:]))


async def _room(exchange: Exchange, generation: Generation, most: int, context: int) -> int:
    """Output tokens that the context leaves, at most `most`."""
    admission = exchange.services.pipeline.admission
    estimated = admission.estimate(generation, exchange.caller.tenant)
    if WIDE * estimated + most <= context:
        return most
    async with http_errors():
        admission.check_model(generation.model, exchange.caller)
        counted = await admission.count(generation)
    prompt = estimated if counted is None else counted
    room = context - prompt - SPARE_TOKENS
    if counted is None:
        return max(1, min(most, room))
    if room < 1:
        text = f"{prompt} tokens > {context} maximum"
        raise HttpError(ErrorKind.INVALID, text, code="context_length_exceeded")
    return min(most, room)
