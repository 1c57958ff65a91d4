"""The dialect of OpenAI: its routes."""

from __future__ import annotations

from gateway.doors.http.dialect import Dialect, Route
from gateway.doors.openai.chat.handler import chat_completions
from gateway.doors.openai.models import list_models, retrieve_model
from gateway.doors.openai.wire.errors import error_shape

OPENAI = Dialect(
    name="openai",
    routes=(
        Route(method="POST", path="/v1/chat/completions", handle=chat_completions, generates=True),
        Route(method="GET", path="/v1/models", handle=list_models),
        Route(method="GET", path="/v1/models/{model...}", handle=retrieve_model),
    ),
    is_spoken=lambda headers: True,
    error=error_shape,
)
"""Spoken by every client that is not known to speak another dialect."""
