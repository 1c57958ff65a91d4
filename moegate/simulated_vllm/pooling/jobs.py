"""Requests for vectors and scores as prompts of the engine, with the checks of vLLM."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from moegate.simulated_vllm.pooling import wire
from moegate.simulated_vllm.pooling.vectors import DIMENSIONS, relevance, similarity, vector_of
from simulation.engine.sequences import TokenRequest
from simulation.output import FinishReason, Output
from simulation.tokenizer import VOCABULARY_TOKENS
from simulation.tokenizer import encode as token_ids

Ids = list[int]


class BadInput(Exception):
    """An input that vLLM refuses."""


class InputTooLong(Exception):
    """An input beyond the context. `tokens`: its length; `counted`: it came as token ids."""

    def __init__(self, tokens: int, *, counted: bool) -> None:
        super().__init__(f"{tokens} tokens")
        self.tokens = tokens
        self.counted = counted


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """The model that pools. `pairs`: it reads query and document together, and makes no vectors.
    `shortens`: its vectors can be shortened."""

    name: str
    context_tokens: int
    pairs: bool
    shortens: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolingJob:
    """Prompts to compute, and the answer. `answer`: makes it of its id and the time, Unix seconds;
    `prefix`: of the id."""

    model: str | None
    prompts: list[Ids]
    prefix: str
    answer: Callable[[str, int], bytes]
    cache_salt: str = ""

    def requests(self, name: str) -> list[TokenRequest]:
        """The prompts as requests to the engine, whose ids begin with `name`. Their one token is
        the pooled output."""
        output = Output(seed=0, tokens=1, finish_reason=FinishReason.STOP)
        return [
            TokenRequest(
                request_id=f"{name}-{i}",
                prompt_ids=prompt,
                outputs=(output,),
                cache_salt=self.cache_salt,
            )
            for i, prompt in enumerate(self.prompts)
        ]


def embedding_job(data: bytes, served: ServedModel) -> PoolingJob:
    """A job of /v1/embeddings. Raises BadInput, InputTooLong or what msgspec raises."""
    body = wire.decode_embedding(data)
    if body.dimensions is not None and not served.shortens:
        raise BadInput(
            f"Model '{served.name}' does not support Matryoshka embeddings; dimensions must be"
            f" unset (received dimensions={body.dimensions})."
        )
    prompts = [_cut(each, body.truncate_prompt_tokens, served) for each in _inputs(body.input)]
    dimensions = body.dimensions or DIMENSIONS

    def answer(answer_id: str, created_s: int) -> bytes:
        vectors = [vector_of(each, dimensions) for each in prompts]
        coded: list[list[float] | str]
        if body.encoding_format == "base64":
            coded = [base64.b64encode(vector.tobytes()).decode() for vector in vectors]
        else:
            coded = [[float(number) for number in vector] for vector in vectors]
        data = [wire.Embedding(i, "embedding", each) for i, each in enumerate(coded)]
        return wire.encode(
            wire.Answer(answer_id, "list", created_s, served.name, data, _usage(prompts))
        )

    return PoolingJob(
        model=body.model,
        prompts=prompts,
        prefix="embd",
        answer=answer,
        cache_salt=body.cache_salt or "",
    )


def score_job(data: bytes, served: ServedModel) -> PoolingJob:
    """A job of /score. Raises BadInput, InputTooLong or what msgspec raises."""
    body = wire.decode_score(data)
    left = [body.text_1] if isinstance(body.text_1, str) else body.text_1
    right = [body.text_2] if isinstance(body.text_2, str) else body.text_2
    if not left or not right:
        raise BadInput("At least one text element must be given")
    if len(left) not in (1, len(right)):
        raise BadInput("Input lengths must be either 1:1, 1:N or N:N")
    prompts, scores = _rated(left, right, body.truncate_prompt_tokens, served)

    def answer(answer_id: str, created_s: int) -> bytes:
        data = [wire.Score(i, "score", score) for i, score in enumerate(scores)]
        return wire.encode(
            wire.Answer(answer_id, "list", created_s, served.name, data, _usage(prompts))
        )

    return PoolingJob(
        model=body.model,
        prompts=prompts,
        prefix="score",
        answer=answer,
        cache_salt=body.cache_salt or "",
    )


def rerank_job(data: bytes, served: ServedModel) -> PoolingJob:
    """A job of /rerank. Raises BadInput, InputTooLong or what msgspec raises."""
    body = wire.decode_rerank(data)
    documents = [body.documents] if isinstance(body.documents, str) else body.documents
    if not documents:
        raise BadInput("At least one text element must be given")
    prompts, scores = _rated([body.query], documents, body.truncate_prompt_tokens, served)

    def answer(answer_id: str, created_s: int) -> bytes:
        results = [
            wire.RerankResult(i, wire.Document(documents[i]), score)
            for i, score in sorted(enumerate(scores), key=lambda each: -each[1])
        ]
        tokens = _usage(prompts).prompt_tokens
        usage = wire.RerankUsage(tokens, tokens)
        shown = results[: body.top_n or len(results)]
        return wire.encode(wire.RerankAnswer(answer_id, served.name, usage, shown))

    return PoolingJob(
        model=body.model,
        prompts=prompts,
        prefix="score",
        answer=answer,
        cache_salt=body.cache_salt or "",
    )


def _rated(
    left: Sequence[str], right: Sequence[str], truncate_tokens: int | None, served: ServedModel
) -> tuple[list[Ids], list[float]]:
    """The prompts, and the scores of the pairs."""
    ones, others = [token_ids(each) for each in left], [token_ids(each) for each in right]
    pairs = list(zip(ones * (len(others) // len(ones)), others, strict=True))
    if served.pairs:
        prompts = [_cut((one + other, False), truncate_tokens, served) for one, other in pairs]
        return prompts, [relevance(one, other) for one, other in pairs]
    prompts = [_cut((each, False), truncate_tokens, served) for each in (*ones, *others)]
    return prompts, [similarity(one, other) for one, other in pairs]


def _inputs(given: str | list[Any]) -> list[tuple[Ids, bool]]:
    """Token ids of each input, and whether they came as such."""
    if isinstance(given, str):
        return [(token_ids(given), False)]
    if not given:
        raise BadInput("You must pass at least one prompt")
    if isinstance(given[0], int):
        given = [given]
    return [
        (token_ids(each), False) if isinstance(each, str) else (_known(each), True)
        for each in given
    ]


def _known(given: Any) -> Ids:
    for token_id in given:
        if not isinstance(token_id, int) or not 0 <= token_id < VOCABULARY_TOKENS:
            raise BadInput(f"Token id {token_id} is out of vocabulary")
    return list(given)


def _cut(prompt: tuple[Ids, bool], truncate_tokens: int | None, served: ServedModel) -> Ids:
    ids, counted = prompt
    most = served.context_tokens
    if not ids:
        raise BadInput("The decoder prompt cannot be empty")
    if truncate_tokens is not None:
        if truncate_tokens > most:
            raise BadInput(
                "truncate_prompt_tokens value is greater than max_model_len. Please request a"
                " smaller truncation size."
            )
        return ids[: most if truncate_tokens < 0 else truncate_tokens]
    if len(ids) > most:
        raise InputTooLong(len(ids), counted=counted)
    return ids


def _usage(prompts: Sequence[Ids]) -> wire.Usage:
    tokens = sum(map(len, prompts))
    return wire.Usage(tokens, tokens)
