"""Builds attributes of spans and labels of metrics from the gateway's values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from itertools import islice
from urllib.parse import urlsplit

import msgspec
from opentelemetry.util.types import AttributeValue

from gateway.config.money import NANO_USD
from gateway.domain.generation import Chat, Generation
from gateway.domain.outcomes import RequestOutcome
from gateway.domain.pooling import EmbeddingInput, PoolingInput, ScoringInput, input_texts
from gateway.pipeline.observer import AttemptAnswer
from gateway.telemetry import semconv
from scheduler.contract import PlacementKind, Request, Start
from scheduler.decision_record import DecisionRecord
from scheduler.fleet_view import PlacementView
from scheduler.metering.settlement import SettledAttempt
from scheduler.port import AttemptEnd

Attributes = dict[str, AttributeValue]

_SAMPLING = {
    "temperature": semconv.REQUEST_TEMPERATURE,
    "top_p": semconv.REQUEST_TOP_P,
    "top_k": semconv.REQUEST_TOP_K,
    "seed": semconv.REQUEST_SEED,
    "frequency_penalty": semconv.REQUEST_FREQUENCY_PENALTY,
    "presence_penalty": semconv.REQUEST_PRESENCE_PENALTY,
}
LOCAL = "local"
MAX_CONTENT_CHARACTERS = 65_536
"""Longest input and longest output on a span, if content is recorded."""
MAX_CONTENT_TEXTS = 64
"""Most texts of a request for vectors or scores on a span, if content is recorded."""


def error_type(outcome: str) -> str:
    """The type of an error, from an outcome; empty where there is none, and so no label."""
    return "" if outcome == RequestOutcome.OK.value else outcome


def operation(generation: Generation) -> str:
    """The GenAI name of the operation."""
    match generation.input:
        case Chat():
            return semconv.CHAT
        case EmbeddingInput():
            return semconv.EMBEDDINGS
        case ScoringInput():
            return semconv.SCORE
        case _:
            return semconv.TEXT_COMPLETION


def pool_of(start: Start) -> str:
    """The pool of a replica, or the remote itself."""
    return start.pool or start.placement


def provider(action: Start) -> str:
    """Provider of an attempt: vLLM, or the configured name of the remote."""
    return semconv.PROVIDER_VLLM if action.kind is PlacementKind.SELF_HOSTED else action.placement


def of_request(request: Request, generation: Generation, key_id: str) -> Attributes:
    """Attributes of a request, for its RPC span."""
    found: Attributes = {
        semconv.REQUEST_ID: generation.request_id,
        semconv.TENANT: request.tenant,
        semconv.KEY_ID: key_id,
        semconv.SLO_CLASS: request.slo.slo_class.value,
        semconv.OPERATION_NAME: operation(generation),
        semconv.REQUEST_MODEL: request.model,
    }
    if generation.max_output_tokens:
        found[semconv.REQUEST_MAX_TOKENS] = generation.max_output_tokens
    if request.priority:
        found[semconv.PRIORITY] = request.priority
    if request.session_id:
        found[semconv.CONVERSATION_ID] = request.session_id
    return found


def of_attempt(
    action: Start,
    request: Request,
    generation: Generation,
    placement: PlacementView | None,
) -> Attributes:
    """Attributes that are known at the start of an attempt."""
    found: Attributes = {
        semconv.OPERATION_NAME: operation(generation),
        semconv.PROVIDER_NAME: provider(action),
        semconv.REQUEST_STREAM: not isinstance(generation.input, PoolingInput),
        semconv.PLACEMENT: action.placement,
        semconv.POOL: pool_of(action),
        semconv.ROUTE: route(action.kind),
        semconv.ATTEMPT: action.attempt,
        semconv.REASON: action.reason,
    }
    found[semconv.REQUEST_MODEL] = generation.model
    if generation.max_output_tokens:
        found[semconv.REQUEST_MAX_TOKENS] = generation.max_output_tokens
    if isinstance(generation.input, EmbeddingInput) and generation.input.dimensions is not None:
        found[semconv.EMBEDDINGS_DIMENSIONS] = generation.input.dimensions
    if placement is not None and placement.address:
        if generation.model == placement.model:
            found[semconv.REQUEST_MODEL] = placement.upstream_model
        found |= _server(placement.address)
    for name, attribute in _SAMPLING.items():
        value = getattr(generation.sampling, name)
        if value is not None:
            found[attribute] = value
    if generation.stop:
        found[semconv.REQUEST_STOP] = generation.stop
    if generation.choices != 1:
        found[semconv.REQUEST_CHOICES] = generation.choices
    if request.session_id:
        found[semconv.CONVERSATION_ID] = request.session_id
    if isinstance(generation.input, Chat) and (
        generation.input.json_object or generation.input.json_schema
    ):
        found[semconv.OUTPUT_TYPE] = "json"
    return found


@lru_cache(1024)
def _server(url: str) -> Mapping[str, str | int]:
    address = urlsplit(url)
    if not address.hostname:
        return {}
    port = address.port or (443 if address.scheme[-1] == "s" else 80)
    return {semconv.SERVER_ADDRESS: address.hostname, semconv.SERVER_PORT: port}


def of_decision(action: Start, decision: DecisionRecord | None) -> Attributes:
    """Attributes of a decision: the chosen placement, and the best rejected one."""
    found: Attributes = {
        semconv.CHOSEN: action.placement,
        semconv.REASON: action.reason,
        semconv.ROUTE: route(action.kind),
    }
    figures = {
        semconv.CHOSEN_TTFT_S: action.predicted_ttft_s,
        semconv.CHOSEN_TPOT_S: action.predicted_tpot_s,
    }
    if decision is not None:
        found[semconv.CANDIDATES] = decision.placements
        found[semconv.TIER] = decision.tier.name.lower()
        chosen, other = decision.best_two()
        if chosen is not None:
            figures[semconv.CHOSEN_USD] = _usd(chosen.marginal_nano_usd)
        if other is not None:
            found[semconv.REJECTED] = other.placement
            found[semconv.REJECTED_REASON] = other.reason or "costs more"
            figures[semconv.REJECTED_TTFT_S] = other.ttft_s
            figures[semconv.REJECTED_TPOT_S] = other.tpot_s
            figures[semconv.REJECTED_USD] = _usd(other.marginal_nano_usd)
    # Unknown and infinite values are left out.
    known = {k: v for k, v in figures.items() if v is not None and math.isfinite(v)}
    return found | known


def _usd(nano_usd: int | None) -> float | None:
    return None if nano_usd is None else nano_usd / NANO_USD


def of_end(end: AttemptEnd, answer: AttemptAnswer, account: SettledAttempt) -> Attributes:
    """What is known of an attempt at its end."""
    usage = account.usage
    found: Attributes = {semconv.OUTCOME: account.outcome.value}
    if answer.model:
        found[semconv.RESPONSE_MODEL] = answer.model
    if answer.response_id:
        found[semconv.RESPONSE_ID] = answer.response_id
    if end.first_token_s is not None:
        found[semconv.RESPONSE_TIME_TO_FIRST_CHUNK] = end.first_token_s
    if end.tpot_s is not None:
        found[semconv.TPOT_S] = end.tpot_s
    if usage is not None:
        found[semconv.USAGE_INPUT] = usage.prompt_tokens
        found[semconv.USAGE_OUTPUT] = usage.completion_tokens
        if usage.cached_tokens is not None:
            found[semconv.USAGE_CACHED] = usage.cached_tokens
        if usage.reasoning_tokens is not None:
            found[semconv.USAGE_REASONING] = usage.reasoning_tokens
    if answer.last is not None:
        reasons = [d.finish_reason.value for d in answer.last.deltas if d.finish_reason]
        if reasons:
            found[semconv.RESPONSE_FINISH_REASONS] = reasons
    return found | of_cost(account)


def of_cost(settled: SettledAttempt) -> Attributes:
    """Cost of an attempt in US dollars, without the parts that are unknown."""
    found: Attributes = {}
    if settled.metered_nano_usd is not None:
        found[semconv.METERED_USD] = settled.metered_nano_usd / NANO_USD
    if settled.charged_nano_usd is not None:
        found[semconv.CHARGED_USD] = settled.charged_nano_usd / NANO_USD
    if settled.basis is not None:
        found[semconv.COST_BASIS] = settled.basis.value
    if settled.price_row_id:
        found[semconv.PRICE_ROW] = settled.price_row_id
    return found


def route(kind: PlacementKind) -> str:
    """The label of a placement's kind: local or overflow."""
    return LOCAL if kind is PlacementKind.SELF_HOSTED else "overflow"


def input_messages(generation: Generation) -> str:
    """The input as JSON of the GenAI conventions, truncated to `MAX_CONTENT_CHARACTERS`."""
    if isinstance(generation.input, Chat):
        messages = [
            {
                "role": message.role.value,
                "parts": [
                    {"type": "text", "content": part}
                    if isinstance(part, str)
                    else {"type": "blob", "mime_type": part.media_type or "image"}
                    for part in message.parts
                ],
            }
            for message in generation.input.messages
        ]
    else:
        if isinstance(generation.input, PoolingInput):
            text = "\n".join(islice(input_texts(generation.input), MAX_CONTENT_TEXTS))
        else:
            text = generation.input if isinstance(generation.input, str) else str(generation.input)
        messages = [{"role": "user", "parts": [{"type": "text", "content": text}]}]
    return msgspec.json.encode(messages).decode()[:MAX_CONTENT_CHARACTERS]


def output_messages(text: str) -> str:
    """The output of the first choice as JSON of the GenAI conventions, truncated likewise."""
    message = {"role": "assistant", "parts": [{"type": "text", "content": text}]}
    return msgspec.json.encode([message]).decode()[:MAX_CONTENT_CHARACTERS]
