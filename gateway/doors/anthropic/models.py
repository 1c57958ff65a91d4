"""GET /v1/models in the shape of the Messages API's provider."""

from __future__ import annotations

from aiohttp import web

from gateway.doors.http.answers import json_answer
from gateway.doors.http.exchange import Exchange

_CREATED_AT = "1970-01-01T00:00:00Z"
"""What the provider's API gives for a release date that is not known."""


async def list_models(exchange: Exchange) -> web.StreamResponse:
    """The models that the key may use, on one page."""
    names = exchange.model_names()
    return json_answer(
        exchange,
        {
            "data": [_model(exchange, name) for name in names],
            "has_more": False,
            "first_id": names[0] if names else None,
            "last_id": names[-1] if names else None,
        },
    )


async def retrieve_model(exchange: Exchange) -> web.StreamResponse:
    """One model. Raises HttpError (NOT_FOUND)."""
    return json_answer(exchange, _model(exchange, exchange.named_model()))


def _model(exchange: Exchange, name: str) -> dict[str, str | int]:
    found: dict[str, str | int] = {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": _CREATED_AT,
        "lifecycle": "active",
    }
    context = exchange.largest_context(name)
    if context is not None:
        found["max_input_tokens"] = found["max_tokens"] = context
    return found
