"""`/v1/models`: the models that the key may use."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from gateway.doors.http.answers import json_answer
from gateway.doors.http.errors import ErrorKind, HttpError
from gateway.doors.http.exchange import Exchange

CREATED_UNIX_S = 1_735_689_600
"""The schema wants a time of creation, which nobody knows here: the same for all models."""


async def list_models(exchange: Exchange) -> web.Response:
    """GET /v1/models."""
    found = sorted(_contexts(exchange).items())
    return json_answer(
        exchange, {"object": "list", "data": [_model(name, context) for name, context in found]}
    )


async def retrieve_model(exchange: Exchange) -> web.Response:
    """GET /v1/models/{model}. Raises HttpError (NOT_FOUND)."""
    name, contexts = exchange.parameters["model"], _contexts(exchange)
    if name not in contexts:
        text = f"model {name[:256]!r} is not served here: see /v1/models"
        raise HttpError(ErrorKind.NOT_FOUND, text, code="model_not_found", param="model")
    return json_answer(exchange, _model(name, contexts[name]))


def _contexts(exchange: Exchange) -> dict[str, int]:
    """Context length by model; 0: unknown."""
    contexts: dict[str, int] = {}
    for placement in exchange.services.port.fleet.placements:
        name = placement.model
        if exchange.caller.allows_model(name):
            contexts[name] = max(contexts.get(name, 0), placement.context_tokens or 0)
    return contexts


def _model(name: str, context: int) -> dict[str, Any]:
    model: dict[str, Any] = {
        "id": name,
        "object": "model",
        "created": CREATED_UNIX_S,
        "owned_by": "moegate",
    }
    if context:
        model["max_model_len"] = context  # as vLLM says it
    return model
