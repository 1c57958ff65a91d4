"""Values that cross the border of the scheduler: what comes in, what goes out.

All are frozen and hold plain data only, so that they can be logged, replayed and one day sent
between processes. Times are seconds on one monotonic clock that the caller owns.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from scheduler.prefix.token_blocks import CacheEvents, TokenBlocks
from scheduler.pricing import TokenRates


class SloClass(enum.StrEnum):
    """Class of service, best first."""

    INTERACTIVE = "interactive"
    STANDARD = "standard"
    BATCH = "batch"


class PlacementKind(enum.StrEnum):
    """Own server or somebody else's."""

    SELF_HOSTED = "local"
    REMOTE = "remote"


class Objective(enum.StrEnum):
    """What a pool's placements are chosen by, among those that keep every promise."""

    COST = "cost"
    """Least marginal cost: requests are packed, so that idle groups can be released."""
    LATENCY = "latency"
    """Least time for all who share a group: requests are spread."""


class RefusalReason(enum.StrEnum):
    """Why a request was refused: the shell maps each to one row of the error table."""

    QUEUE_FULL = "queue_full"
    SHED = "shed"
    """It waited, and gave its seat in the full queue to a request of more weight."""
    QUEUE_TIMEOUT = "queue_timeout"
    DEADLINE = "deadline"
    TOO_LONG = "too_long"
    UNKNOWN_MODEL = "unknown_model"
    NO_PLACEMENT_ALLOWED = "no_placement_allowed"
    UNAVAILABLE = "unavailable"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    PERMISSION_DENIED = "permission_denied"
    """The key may not use the model, the class of service or a class of remotes."""
    REQUEST_IN_FLIGHT = "request_in_flight"
    """A request of the same id has not ended."""
    IDEMPOTENCY_KEY_USED = "idempotency_key_used"
    """Another request has the idempotency key."""
    IDEMPOTENCY_KEYS = "idempotency_keys"
    """Too many idempotency keys are remembered."""
    KEY_LIMIT = "key_limit"
    """The API key is at one of its limits."""
    BUDGET_SPENT = "budget_spent"
    BUDGET_HELD = "budget_held"
    """What is left of a budget is held by requests that run."""
    BUDGET_UNCHECKED = "budget_unchecked"
    """The ledger does not answer: a cap that cannot be checked is not passed."""
    PRICE_UNKNOWN = "price_unknown"
    """A cap holds, and no server that may run the request has a price."""
    MAX_COST = "max_cost"
    """The request's own limit is below its worst case everywhere."""


class OverflowReason(enum.StrEnum):
    """Why a request goes to a remote."""

    SATURATED = "saturated"
    """Self-hosted servers would have been late."""
    NOT_SERVED_HERE = "not_served_here"
    """No self-hosted server of the model is in service."""


class AttemptOutcome(enum.StrEnum):
    """How an attempt ended."""

    OK = "ok"
    CANCELLED = "cancelled"
    """The client went away or its deadline passed."""
    FAILED = "failed"
    """The request itself is at fault, or content was sent: no other attempt."""
    RETRYABLE = "retryable"
    """Nothing was sent to the client: another placement may be tried."""
    SUPERSEDED = "superseded"
    """Another attempt of the same request answered first: waste."""
    EVICTED = "evicted"
    """The scheduler took it back, and nothing was sent to the client: it waits again."""


class Fault(enum.StrEnum):
    """Whose fault the end of an attempt was: what it says of the next request there."""

    NONE = "none"
    """Nobody's, or the client's."""
    REQUEST = "request"
    """The request is not for this placement, nor for the others of its pool."""
    BUSY = "busy"
    """The placement is full, or its rate limit is reached: later, and less."""
    PLACEMENT = "placement"
    """It failed."""
    ACCOUNT = "account"
    """It refuses the gateway's key, or its credit is used up: nothing will pass for a while."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one attempt, all choices together; None: the upstream does not say.

    `prompt_tokens` includes the cached ones and those written to a cache (for about 5 minutes, or
    `long_` for an hour, where the upstream bills that). `completion_tokens` includes reasoning.
    `estimated`: counted by the gateway, not reported.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cache_write_tokens: int = 0
    long_cache_write_tokens: int = 0
    estimated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """What a request is promised.

    `ttft_s`: time to first token; `tpot_s`: mean time per output token; `max_queue_s`: longest
    stay in the queue.
    """

    slo_class: SloClass
    ttft_s: float
    tpot_s: float
    max_queue_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the scheduler knows of a request.

    `prompt_tokens` is an estimate unless `prompt_tokens_exact`; `max_output_tokens` is per choice;
    `remote_classes` are the classes of remotes that may serve it (empty: none, the content stays
    local); `unsupported_by` names placements that cannot honour a field of it. `weight`: the
    tenant's share of a saturated model, relative to the others'. `prefix_blocks`: chained hashes of
    the prompt's full blocks of `prefix_block_tokens` each, the cache salt in the first, so that
    equal hashes mean an equal prefix in the same cache. `token_blocks`: the same by tokens, of a
    prompt given as token ids, for each block size of the model's engines. `whole_answer`: the
    client gets nothing before the end.
    """

    request_id: str
    tenant: str
    model: str
    arrival_s: float
    deadline_s: float
    slo: Slo
    priority: int
    prompt_tokens: int
    max_output_tokens: int
    choices: int
    size_bytes: int
    remote_classes: frozenset[str]
    prompt_tokens_exact: bool = False
    session_id: str = ""
    key_id: str = ""
    unsupported_by: frozenset[str] = frozenset()
    weight: float = 1.0
    prefix_blocks: tuple[int, ...] = ()
    prefix_block_tokens: int = 512
    token_blocks: tuple[TokenBlocks, ...] = ()
    whole_answer: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCounts:
    """Totals since an engine started, of all its data-parallel ranks, for the fit of step times.

    Attributes:
        ranks: engines that were added up.
        gaps, gaps_s: times between two outputs of a sequence and their sum; one output is one step
            of the engine, with speculation of several tokens.
        first_tokens: sequences whose prefill has ended.
        steps: steps with any output, of all ranks.
        cached_prompt_tokens: prompt tokens that the prefix cache had.
        preemptions: sequences put back for want of KV blocks.
        drafts, draft_tokens, accepted_tokens: of speculative decoding.
    """

    ranks: int = 1
    gaps: int = 0
    gaps_s: float = 0.0
    first_tokens: int = 0
    steps: int = 0
    cached_prompt_tokens: int = 0
    preemptions: int = 0
    drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport:
    """What an engine says of itself (vLLM: /metrics), and when it was read.

    Gauges that vLLM has not created yet count as 0. Token counters are totals since the engine
    started. `kv_capacity_tokens` and `context_tokens`: None when not reported. `kv_usage` is the
    mean of the ranks, `kv_usage_fullest` that of the fullest one.
    """

    placement: str
    at_s: float
    running: int
    waiting: int
    kv_usage: float
    prompt_tokens_total: int
    generation_tokens_total: int
    kv_capacity_tokens: int | None = None
    context_tokens: int | None = None
    kv_usage_fullest: float | None = None
    counts: EngineCounts | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingChanged:
    """A placement came into service or left it."""

    placement: str
    serving: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PricesChanged:
    """Dated prices of a placement changed; see `fleet.Placement`. None: unknown."""

    placement: str
    rates: TokenRates | None
    nano_usd_per_s: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Tokens that an attempt has produced so far, all choices together."""

    request_id: str
    attempt: int
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptEnded:
    """An attempt is over. Token counts are the engine's own, or None when it told none.

    `fault`: whose fault a bad end was; `retry_after_s`: how long the placement asks to be spared.
    """

    request_id: str
    attempt: int
    outcome: AttemptOutcome
    detail: str = ""
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    fault: Fault = Fault.NONE
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """The client gave the request up, wherever it is."""

    request_id: str


Event = (
    EngineReport
    | ServingChanged
    | PricesChanged
    | CacheEvents
    | Progress
    | AttemptEnded
    | Cancelled
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Send the request to this placement now.

    Attributes:
        attempt: counts from 1.
        reason: for a reader.
        predicted_ttft_s, predicted_tpot_s: None: no prediction yet.
        pool, replica: of a self-hosted placement; empty for a remote.
        overflow: why it goes to a remote; None: it does not.
    """

    request_id: str
    attempt: int
    placement: str
    kind: PlacementKind
    reason: str
    predicted_ttft_s: float | None
    predicted_tpot_s: float | None
    dp_rank: int | None = None
    predicted_cached_tokens: int = 0
    pool: str = ""
    replica: str = ""
    overflow: OverflowReason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evict:
    """Take this attempt back: end its upstream call and report `AttemptEnded` with EVICTED.

    A wish: once content was sent the attempt goes on, and ends as it ends.
    """

    request_id: str
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """Refuse the request.

    Attributes:
        message: for a reader.
        retry_after_s: when it is worth another try; None: never.
        subject: what is exhausted, for budgets and prices; else empty.
        other_request_id: the request that has the id or the idempotency key; else empty.
    """

    request_id: str
    reason: RefusalReason
    message: str
    retry_after_s: float | None
    subject: str = ""
    other_request_id: str = ""


Action = Start | Refuse | Evict


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Result of a tick: what to do, and when the next tick is due (None: at the next event)."""

    actions: tuple[Action, ...]
    next_wake_s: float | None
