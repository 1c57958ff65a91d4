"""`/v1/embeddings`."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import numpy as np
from aiohttp import web

from gateway.domain.generation import Generation
from gateway.domain.pooling import WHOLE_CONTEXT, EmbeddingInput, Vectors
from gateway.domain.slices import Steps, in_slices
from gateway.doors.http.answers import json_answer, run_pooled
from gateway.doors.http.errors import invalid
from gateway.doors.http.exchange import Exchange
from gateway.doors.openai.wire import options
from gateway.doors.openai.wire.inputs import inputs_of
from gateway.doors.openai.wire.usage import input_usage
from gateway.upstream.pooled import MOST_DIMENSIONS

FORMATS = ("float", "base64")


class EmbeddingsBody(msgspec.Struct, kw_only=True):
    """The body. `truncate_prompt_tokens` is vLLM's."""

    model: str
    input: msgspec.Raw
    encoding_format: str | None = None
    dimensions: int | None = None
    truncate_prompt_tokens: int | None = None
    user: Any = None


_decode = msgspec.json.Decoder(EmbeddingsBody).decode


async def embeddings(exchange: Exchange) -> web.StreamResponse:
    """POST /v1/embeddings."""
    body = await exchange.body(_decode, has_token_ids=True)
    generation = _generation(body, exchange)
    form = body.encoding_format or FORMATS[0]
    if form not in FORMATS:
        raise invalid("encoding_format", f"{form[:40]!r}: give float or base64")
    end_user = options.end_user_of(body.user)
    del body
    call = await exchange.generate_call(generation, whole_answer=True, end_user=end_user)
    pooled, finished = await run_pooled(exchange, call)
    assert isinstance(pooled, Vectors)
    data = await in_slices(_data(pooled, form))
    answer = {
        "object": "list",
        "data": data,
        "model": generation.model,
        "usage": input_usage(finished),
    }
    return json_answer(exchange, answer)


def _generation(body: EmbeddingsBody, exchange: Exchange) -> Generation:
    options.check_model(body.model)
    dimensions, truncate = body.dimensions, body.truncate_prompt_tokens
    if dimensions is not None and not 0 < dimensions <= MOST_DIMENSIONS:
        raise invalid("dimensions", f"{dimensions}: give 1 to {MOST_DIMENSIONS}")
    if truncate is not None and truncate < 1 and truncate != WHOLE_CONTEXT:
        fix = f"give 1 or more, or {WHOLE_CONTEXT} for as many as the model takes"
        raise invalid("truncate_prompt_tokens", f"{truncate}: {fix}")
    elements = exchange.services.active.config.limits.elements
    return Generation(
        request_id=exchange.request_id,
        model=body.model,
        input=EmbeddingInput(
            inputs=inputs_of(body.input, "input", elements),
            dimensions=dimensions,
            truncate_tokens=truncate,
        ),
        max_output_tokens=0,
    )


def _data(pooled: Vectors, form: str) -> Steps[list[dict[str, Any]]]:
    """The vectors, as numbers or as base64 of float32, which is as OpenAI has it."""
    found: list[dict[str, Any]] = []
    for i, vector in enumerate(pooled.vectors):
        value: str | list[float]
        if form == "base64":
            value = base64.b64encode(vector).decode()
        else:
            value = np.frombuffer(vector, "<f4").tolist()
        found.append({"object": "embedding", "index": i, "embedding": value})
        yield
    return found
