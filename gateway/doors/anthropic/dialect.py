"""The Messages API as a dialect of the HTTP port."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.doors.anthropic.budgets import oauth_usage
from gateway.doors.anthropic.errors import error_shape
from gateway.doors.anthropic.messages import count_tokens, create_message
from gateway.doors.anthropic.models import list_models, retrieve_model
from gateway.doors.http.dialect import Dialect, Route

_HEADERS = ("anthropic-version", "anthropic-beta")


def is_spoken(headers: Mapping[str, str]) -> bool:
    """Whether a client's headers are those of the provider's SDKs."""
    return any(name in headers for name in _HEADERS)


ANTHROPIC = Dialect(
    name="anthropic",
    routes=(
        Route(method="POST", path="/v1/messages", handle=create_message, generates=True),
        Route(method="POST", path="/v1/messages/count_tokens", handle=count_tokens),
        Route(method="GET", path="/api/oauth/usage", handle=oauth_usage),
        Route(method="GET", path="/v1/models", handle=list_models),
        Route(method="GET", path="/v1/models/{model...}", handle=retrieve_model),
    ),
    is_spoken=is_spoken,
    error=error_shape,
)
"""Spoken by clients that send the provider's version or beta headers."""
