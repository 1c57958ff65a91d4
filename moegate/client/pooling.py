"""Vectors and scores: their options, their requests, and what comes back."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from moegate.client.answers import Account, account_of
from moegate.client.generation_options import SloClass, slo_class_of
from moegate.v1 import chat_pb2, generation_pb2, pooling_pb2

Inputs = Sequence[str] | Sequence[Sequence[int]]
"""Texts, or token ids of each."""


class PoolingOptions(TypedDict, total=False):
    """Options of a request for vectors or scores. Absent ones take the server's defaults.

    Attributes:
        dimensions: numbers of a vector, for models that can shorten theirs; not for scores.
        truncate_tokens: most tokens of one input, or of one pair; -1: as many as the model takes.
        slo_class: "interactive", "standard" or "batch".
        priority: rank within the class, -10 to 10.
        local_only: never leaves the self-hosted servers.
        remote_classes: classes of remotes that may serve it.
        max_cost_nano_usd: most that it may be charged.
        request_id: for logs, traces and `explain`.
        idempotency_key: absent: a random one, so that a retry is never charged twice.
    """

    dimensions: int
    truncate_tokens: int
    slo_class: SloClass
    priority: int
    local_only: bool
    remote_classes: Sequence[str]
    max_cost_nano_usd: int
    request_id: str
    idempotency_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """One vector per input, in their order, and the account of the request."""

    vectors: tuple[tuple[float, ...], ...]
    account: Account


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """One score per document, in their order, and the account of the request. Higher is better."""

    scores: tuple[float, ...]
    account: Account

    @property
    def best_first(self) -> tuple[int, ...]:
        """Indexes of the documents, the best first."""
        return tuple(sorted(range(len(self.scores)), key=lambda i: -self.scores[i]))


_PLAIN = ("truncate_tokens", "priority", "max_cost_nano_usd", "request_id")
"""Options that are fields of the request, of the same name."""
_KNOWN = frozenset(PoolingOptions.__annotations__)


def embed_request(model: str, inputs: Inputs, options: PoolingOptions) -> pooling_pb2.EmbedRequest:
    """The request as a proto. Raises ValueError or TypeError, which name the option."""
    if isinstance(inputs, str):
        raise TypeError("inputs: give a list of texts, not one text")
    request = pooling_pb2.EmbedRequest(model=model)
    for each in inputs:
        if isinstance(each, str):
            request.texts.texts.append(each)
        else:
            request.tokens.inputs.append(chat_pb2.TokenInput(token_ids=each))
    if request.HasField("tokens") and len(request.tokens.inputs) != len(inputs):
        raise TypeError("inputs: give texts or token ids, not both")
    if "dimensions" in options:
        request.dimensions = options["dimensions"]
    _write_options(request, options)
    return request


def score_request(
    model: str, query: str, documents: Sequence[str], options: PoolingOptions
) -> pooling_pb2.ScoreRequest:
    """The request as a proto. Raises ValueError or TypeError, which name the option."""
    if isinstance(documents, str):
        raise TypeError("documents: give a list of texts, not one text")
    if "dimensions" in options:
        raise TypeError("dimensions: scores have none")
    request = pooling_pb2.ScoreRequest(model=model, query=query, documents=documents)
    _write_options(request, options)
    return request


def embeddings_of(found: pooling_pb2.EmbedResponse) -> Embeddings:
    """The vectors of an answer."""
    return Embeddings(
        vectors=tuple(tuple(each.values) for each in found.embeddings),
        account=account_of(found.done),
    )


def scores_of(found: pooling_pb2.ScoreResponse) -> Scores:
    """The scores of an answer."""
    return Scores(scores=tuple(found.scores), account=account_of(found.done))


def _write_options(
    request: pooling_pb2.EmbedRequest | pooling_pb2.ScoreRequest, options: PoolingOptions
) -> None:
    if unknown := sorted(set(options) - _KNOWN):
        raise TypeError(f"{unknown[0]}: no such option; see PoolingOptions")
    given: dict[str, Any] = dict(options)
    for name in _PLAIN:
        if name in given:
            try:
                setattr(request, name, given[name])
            except (TypeError, ValueError) as error:
                raise type(error)(f"{name}: {given[name]!r:.100}: {error}") from None
    request.idempotency_key = options.get("idempotency_key", "") or uuid.uuid4().hex
    if "slo_class" in options:
        request.slo.slo_class = slo_class_of(options["slo_class"])
    policy = generation_pb2.DataPolicy(
        local_only=options.get("local_only", False),
        remote_classes=options.get("remote_classes", ()),
    )
    if policy.ByteSize():
        request.data_policy.CopyFrom(policy)
