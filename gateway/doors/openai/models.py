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
    found = [_model(exchange, name) for name in _names(exchange)]
    return json_answer(exchange, {"object": "list", "data": found})


async def retrieve_model(exchange: Exchange) -> web.Response:
    """GET /v1/models/{model}. Raises HttpError (NOT_FOUND)."""
    name = exchange.parameters["model"]
    if name not in _names(exchange):
        text = f"model {name[:256]!r} is not served here: see /v1/models"
        raise HttpError(ErrorKind.NOT_FOUND, text, code="model_not_found", param="model")
    return json_answer(exchange, _model(exchange, name))


def _names(exchange: Exchange) -> list[str]:
    """Models and LoRA adapters that the key may use."""
    return sorted(filter(exchange.caller.allows_model, exchange.services.port.fleet.by_model))


def _model(exchange: Exchange, name: str) -> dict[str, Any]:
    """A model. `max_model_len` and, of an adapter, `parent` are said as vLLM says them."""
    fleet = exchange.services.port.fleet
    model: dict[str, Any] = {
        "id": name,
        "object": "model",
        "created": CREATED_UNIX_S,
        "owned_by": "moegate",
    }
    contexts = [each.context_tokens for each in fleet.of_model(name)]
    known = [each for each in contexts if each is not None]
    if known:
        model["max_model_len"] = max(known)
    if name in fleet.bases:
        model["parent"] = fleet.bases[name]
    return model
