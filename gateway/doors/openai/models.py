"""`/v1/models`: the models that the key may use."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from gateway.doors.http.answers import json_answer
from gateway.doors.http.exchange import Exchange

CREATED_UNIX_S = 1_735_689_600
"""The schema wants a time of creation, which nobody knows here: the same for all models."""


async def list_models(exchange: Exchange) -> web.Response:
    """GET /v1/models."""
    found = [_model(exchange, name) for name in exchange.model_names()]
    return json_answer(exchange, {"object": "list", "data": found})


async def retrieve_model(exchange: Exchange) -> web.Response:
    """GET /v1/models/{model}. Raises HttpError (NOT_FOUND)."""
    return json_answer(exchange, _model(exchange, exchange.named_model()))


def _model(exchange: Exchange, name: str) -> dict[str, Any]:
    """A model. `max_model_len` and, of an adapter, `parent` are said as vLLM says them."""
    fleet = exchange.services.port.fleet
    model: dict[str, Any] = {
        "id": name,
        "object": "model",
        "created": CREATED_UNIX_S,
        "owned_by": "moegate",
    }
    context = exchange.largest_context(name)
    if context is not None:
        model["max_model_len"] = context
    if name in fleet.bases:
        model["parent"] = fleet.bases[name]
    return model
