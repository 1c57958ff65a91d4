"""`/v1/completions`: a raw prompt, continued."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import msgspec
from aiohttp import web

from gateway.domain import request_bounds as bounds
from gateway.domain.generation import ChoiceDelta, Chunk, FinishReason, Generation, TokenLogprob
from gateway.domain.outcomes import Finished
from gateway.doors.http.answers import encode, json_answer, run_stream, run_whole
from gateway.doors.http.errors import HttpError, invalid
from gateway.doors.http.exchange import Exchange
from gateway.doors.http.sse import data_event
from gateway.doors.openai.chat.answer import DONE, FINISH, PING
from gateway.doors.openai.chat.body import StreamOptions
from gateway.doors.openai.wire import options
from gateway.doors.openai.wire.errors import error_object
from gateway.doors.openai.wire.inputs import inputs_of
from gateway.doors.openai.wire.logprobs import json_logprob
from gateway.doors.openai.wire.options import SamplingFields
from gateway.doors.openai.wire.usage import chat_usage

DEFAULT_TOKENS = 16
"""Output limit of a request that sets none, as OpenAI has it here."""


class CompletionsBody(SamplingFields, kw_only=True):
    """The body."""

    model: str
    prompt: msgspec.Raw
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    n: int | None = None
    logprobs: int | None = None
    echo: bool | None = None
    suffix: str | None = None
    user: Any = None


_decode = msgspec.json.Decoder(CompletionsBody).decode


async def completions(exchange: Exchange) -> web.StreamResponse:
    """POST /v1/completions."""
    body = await exchange.body(_decode, has_token_ids=True)
    generation = _generation(body, exchange)
    stream, usage = bool(body.stream), body.stream_options
    end_user = options.end_user_of(body.user)
    del body
    call = await exchange.generate_call(generation, whole_answer=not stream, end_user=end_user)
    events = CompletionEvents(
        exchange.request_id,
        generation.model,
        include_usage=usage is not None and bool(usage.include_usage),
    )
    if stream:
        return await run_stream(exchange, call, events, ping=PING)
    choices, finished = await run_whole(exchange, call)
    return json_answer(exchange, events.whole(choices, finished))


def _generation(body: CompletionsBody, exchange: Exchange) -> Generation:
    options.check_model(body.model)
    if body.echo:
        raise invalid("echo", "the prompt is not repeated here: leave echo out")
    if body.suffix:
        raise invalid("suffix", "text is not filled in here: leave suffix out")
    choices = 1 if body.n is None else body.n
    if not 1 <= choices <= bounds.MAX_CHOICES:
        raise invalid("n", f"{choices}: give 1 to {bounds.MAX_CHOICES}")
    if body.logprobs is not None and not 0 <= body.logprobs <= bounds.MAX_LOGPROBS:
        raise invalid("logprobs", f"{body.logprobs}: give 0 to {bounds.MAX_LOGPROBS}")
    elements = exchange.services.active.config.limits.elements
    prompts = inputs_of(body.prompt, "prompt", elements)
    if len(prompts) > 1:
        raise invalid("prompt", f"{len(prompts)} prompts: give one, and send the others apart")
    asked = DEFAULT_TOKENS if body.max_tokens is None else body.max_tokens
    most = exchange.output_tokens(body.model, asked, choices, "max_tokens")
    return Generation(
        request_id=exchange.request_id,
        model=body.model,
        input=prompts[0],
        max_output_tokens=most,
        sampling=options.sampling_of(body),
        stop=options.stops_of(body),
        choices=choices,
        logprobs=body.logprobs,
        ignore_eos=bool(body.ignore_eos),
        min_tokens=options.min_tokens_of(body, most),
        logit_bias=options.logit_bias_of(body),
        stop_token_ids=options.stop_token_ids_of(body),
    )


class CompletionEvents:
    """The answer: chunks of a stream, or whole."""

    def __init__(self, request_id: str, model: str, *, include_usage: bool) -> None:
        self._head = {
            "id": f"cmpl-{request_id}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        self._include_usage = include_usage

    def opening(self) -> bytes:
        """Nothing: a completion begins with its text."""
        return b""

    def chunk(self, chunk: Chunk) -> bytes:
        """New output."""
        told = [
            data_event(encode(self._head | {"choices": [_choice(delta, delta.finish_reason)]}))
            for delta in chunk.deltas
            if delta.text or delta.logprobs or delta.finish_reason is not None
        ]
        return b"".join(told)

    def finished(self, finished: Finished) -> bytes:
        """The usage, if it is wanted, and the end."""
        if not self._include_usage:
            return DONE
        last = self._head | {"choices": [], "usage": chat_usage(finished)}
        return data_event(encode(last)) + DONE

    def failed(self, error: HttpError) -> bytes:
        """The error in place of the rest."""
        return data_event(encode({"error": error_object(error)}))

    def whole(self, choices: list[ChoiceDelta], finished: Finished) -> dict[str, Any]:
        """The body of a whole answer."""
        found = [_choice(each, each.finish_reason or FinishReason.STOP) for each in choices]
        return self._head | {"choices": found, "usage": chat_usage(finished)}


def _choice(delta: ChoiceDelta, finish: FinishReason | None) -> dict[str, Any]:
    return {
        "index": delta.index,
        "text": delta.text,
        "logprobs": _logprobs(delta.logprobs) if delta.logprobs else None,
        "finish_reason": None if finish is None else FINISH[finish],
    }


def _logprobs(entries: Iterable[TokenLogprob]) -> dict[str, list[Any]]:
    found = list(entries)
    offsets = [0]
    for entry in found:
        offsets.append(offsets[-1] + len(entry.token))
    return {
        "tokens": [entry.token for entry in found],
        "token_logprobs": [json_logprob(entry.logprob) for entry in found],
        "top_logprobs": [
            {token: json_logprob(logprob) for token, logprob in entry.top} for entry in found
        ],
        "text_offset": offsets[:-1],
    }
