"""What the gateway tells beside answers: models, quotes, decisions and spend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

from google.protobuf.timestamp_pb2 import Timestamp

from moegate.v1 import generation_pb2, inference_pb2, usage_pb2

Group = Literal[
    "tenant",
    "key",
    "model",
    "hour",
    "day",
    "week",
    "month",
    "year",
    "placement",
    "pool",
    "kind",
    "session",
    "end_user",
    "label",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that the key may use. `context_tokens`: None: not yet known. `adapter_of`: base model
    of a LoRA adapter; empty: it is none."""

    name: str
    context_tokens: int | None
    replicas_serving: int
    replicas: int
    remotes: int
    adapter_of: str = ""
    tasks: tuple[str, ...] = ()
    """What it does: "generate", "embed", "score"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCount:
    """Tokens of a prompt. `exact`: counted by the model's tokenizer, not estimated from bytes."""

    prompt_tokens: int
    exact: bool
    context_tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A placement where a request could run. Times in seconds, costs in nano-USD; None: unknown.

    Attributes:
        chosen: it is the one that would be taken, or was.
        feasible: the request could run there at once and keep every objective.
        reason: why it was taken or not, for a reader.
    """

    placement: str
    remote: bool
    chosen: bool
    feasible: bool
    ttft_s: float | None
    tpot_s: float | None
    marginal_nano_usd: int | None
    charged_nano_usd: int | None
    expected_cached_tokens: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a request ran where it did. `tier`: local, wait, remote, wait_late or refuse."""

    request_id: str
    model: str
    age_s: float
    attempt: int
    tier: str
    placement: str
    reason: str
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendRow:
    """Spend of one group. Amounts in nano-USD.

    Attributes:
        group: values of the groups, in the order asked for; times as ISO 8601, UTC.
        unpriced_attempts: attempts of unknown price; they are in no sum.
    """

    group: tuple[str, ...]
    requests: int
    uncached_input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    metered_nano_usd: int
    charged_nano_usd: int
    unpriced_attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend:
    """Spend by group. `truncated`: there are more rows than the limit."""

    rows: tuple[SpendRow, ...]
    truncated: bool


def models_of(answer: inference_pb2.ListModelsResponse) -> tuple[Model, ...]:
    """The models of an answer."""
    return tuple(
        Model(
            name=model.name,
            context_tokens=model.context_tokens if model.HasField("context_tokens") else None,
            replicas_serving=model.local_replicas_serving,
            replicas=model.local_replicas,
            remotes=model.remotes,
            adapter_of=model.adapter_of,
            tasks=tuple(
                inference_pb2.ModelTask.Name(task).removeprefix("MODEL_TASK_").lower()
                for task in model.tasks
            ),
        )
        for model in answer.models
    )


def token_count_of(answer: inference_pb2.CountTokensResponse) -> TokenCount:
    """The count of an answer."""
    return TokenCount(
        prompt_tokens=answer.prompt_tokens,
        exact=answer.exact,
        context_tokens=answer.context_tokens if answer.HasField("context_tokens") else None,
    )


def candidates_of(found: Sequence[inference_pb2.QuoteCandidate]) -> tuple[Candidate, ...]:
    """The placements of a quote or an explanation, best first."""
    return tuple(
        Candidate(
            placement=one.placement,
            remote=one.kind == generation_pb2.PLACEMENT_KIND_REMOTE,
            chosen=one.chosen,
            feasible=one.feasible,
            ttft_s=one.ttft.ToNanoseconds() / 1e9 if one.HasField("ttft") else None,
            tpot_s=one.tpot.ToNanoseconds() / 1e9 if one.HasField("tpot") else None,
            marginal_nano_usd=one.marginal_nano_usd if one.HasField("marginal_nano_usd") else None,
            charged_nano_usd=one.charged_nano_usd if one.HasField("charged_nano_usd") else None,
            expected_cached_tokens=one.expected_cached_tokens,
            reason=one.reason,
        )
        for one in found
    )


def explanation_of(answer: inference_pb2.ExplainResponse) -> Explanation:
    """The decision of an answer."""
    return Explanation(
        request_id=answer.request_id,
        model=answer.model,
        age_s=answer.age.ToNanoseconds() / 1e9,
        attempt=answer.attempt,
        tier=answer.tier,
        placement=answer.placement,
        reason=answer.reason,
        candidates=candidates_of(answer.candidates),
    )


def spend_request(
    by: Sequence[Group],
    since: datetime | None,
    until: datetime | None,
    tenant: str,
    model: str,
    limit: int,
    label: str,
) -> usage_pb2.GetSpendRequest:
    """The question for spend. Raises ValueError, which names the argument."""
    known = {name: f"SPEND_GROUP_{name.upper()}" for name in get_args(Group)}
    unknown = [name for name in by if name not in known]
    if unknown:
        raise ValueError(f"by: {unknown[0]!r} is none of {list(known)}")
    request = usage_pb2.GetSpendRequest(
        group_by=[known[name] for name in by],
        tenant=tenant,
        model=model,
        limit=limit,
        label=label,
    )
    if since is not None:
        getattr(request, "from").CopyFrom(_timestamp("since", since))
    if until is not None:
        request.to.CopyFrom(_timestamp("until", until))
    return request


def spend_of(answer: usage_pb2.GetSpendResponse) -> Spend:
    """The spend of an answer."""
    rows = tuple(
        SpendRow(
            group=tuple(row.group),
            requests=row.requests,
            uncached_input_tokens=row.uncached_input_tokens,
            cached_input_tokens=row.cached_input_tokens,
            output_tokens=row.output_tokens,
            metered_nano_usd=row.metered_nano_usd,
            charged_nano_usd=row.charged_nano_usd,
            unpriced_attempts=row.unpriced_attempts,
        )
        for row in answer.rows
    )
    return Spend(rows=rows, truncated=answer.truncated)


def _timestamp(argument: str, time: datetime) -> Timestamp:
    if time.tzinfo is None:
        raise ValueError(f"{argument}: {time} has no time zone: give one, such as datetime.UTC")
    found = Timestamp()
    found.FromDatetime(time)
    return found
