"""The dialect of OpenAI: its routes."""

from __future__ import annotations

from gateway.doors.http.dialect import Dialect, Handler, Route
from gateway.doors.openai.batches.routes import BATCH_ROUTES
from gateway.doors.openai.chat.handler import chat_completions
from gateway.doors.openai.completions import completions
from gateway.doors.openai.embeddings import embeddings
from gateway.doors.openai.models import list_models, retrieve_model
from gateway.doors.openai.responses.handler import RESPONSE_PREFIX, Responses
from gateway.doors.openai.responses.stored import ResponseStore
from gateway.doors.openai.router_reports import catalog, usage
from gateway.doors.openai.wire.errors import error_shape, spent_is_402


def openai_dialect() -> Dialect:
    """The dialect, with a store of responses of its own. Spoken by every client that is not known
    to speak another one."""
    responses = Responses(ResponseStore())
    one_response = f"/v1/responses/{RESPONSE_PREFIX}{{id}}"
    return Dialect(
        name="openai",
        routes=(
            Route(
                method="POST",
                path="/v1/chat/completions",
                handle=spent_is_402(chat_completions),
                generates=True,
            ),
            Route(
                method="POST",
                path="/v1/completions",
                handle=spent_is_402(completions),
                generates=True,
            ),
            Route(method="POST", path="/v1/embeddings", handle=embeddings, generates=True),
            Route(method="POST", path="/v1/responses", handle=responses.create, generates=True),
            Route(method="GET", path=one_response, handle=responses.retrieve),
            Route(method="DELETE", path=one_response, handle=responses.delete),
            *BATCH_ROUTES,
            Route(method="GET", path="/v1/catalog", handle=catalog),
            Route(method="GET", path="/v1/usage", handle=usage),
            Route(method="GET", path="/v1/models", handle=list_models),
            Route(method="GET", path="/v1/models/{model...}", handle=retrieve_model),
        ),
        is_spoken=lambda headers: True,
        error=error_shape,
    )


def line_handlers() -> dict[str, Handler]:
    """Handlers of the paths that a line of a batch may name."""
    return {
        "/v1/chat/completions": chat_completions,
        "/v1/completions": completions,
        "/v1/embeddings": embeddings,
        "/v1/responses": Responses(ResponseStore()).create,
    }
