"""Values that cross the boundary of the scheduler: requests, events and actions.

All are frozen and hold plain data only, so they can be logged, replayed and sent between processes.
Times are seconds on one monotonic clock that the caller owns. What is made for every request is a
msgspec struct, because building one takes a tenth of the time of a frozen dataclass.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import msgspec

from scheduler.adapters.adapter_report import AdapterReport
from scheduler.budgets.budget_window import Window
from scheduler.engine_steps import EngineCounts, EngineSteps, KvTransfers
from scheduler.prefix.token_blocks import CacheEvents, TokenBlocks
from scheduler.pricing import TokenRates


class SloClass(enum.StrEnum):
    """Service class, highest first."""

    INTERACTIVE = "interactive"
    STANDARD = "standard"
    BATCH = "batch"


class PlacementKind(enum.StrEnum):
    """Whether a placement is self-hosted or a remote."""

    SELF_HOSTED = "local"
    REMOTE = "remote"


class Objective(enum.StrEnum):
    """Criterion by which a pool chooses among placements that meet every SLO."""

    COST = "cost"
    """Lowest marginal cost. Requests are packed, so idle groups can be released."""
    LATENCY = "latency"
    """Lowest total latency of all requests in a group. Requests are spread."""


class RefusalReason(enum.StrEnum):
    """Reason of a refusal. Every door maps each reason to one row of its error table."""

    QUEUE_FULL = "queue_full"
    SHED = "shed"
    """A request of higher rank took its place in the full queue."""
    QUEUE_TIMEOUT = "queue_timeout"
    DEADLINE = "deadline"
    TOO_LONG = "too_long"
    UNKNOWN_MODEL = "unknown_model"
    NO_PLACEMENT_ALLOWED = "no_placement_allowed"
    UNAVAILABLE = "unavailable"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    QUARANTINED = "quarantined"
    """The request failed on several placements that serve others, or is like one that did."""
    PERMISSION_DENIED = "permission_denied"
    """The key may not use the model, the service class, a class of remotes, or as tight an SLO."""
    OUT_OF_BOUNDS = "out_of_bounds"
    """A field has a value that no key may ask for."""
    REQUEST_IN_FLIGHT = "request_in_flight"
    """A request with the same id is in progress."""
    IDEMPOTENCY_KEY_USED = "idempotency_key_used"
    """Another request has used the idempotency key."""
    KEY_LIMIT = "key_limit"
    """The API key has reached one of its limits."""
    BUDGET_SPENT = "budget_spent"
    BUDGET_HELD = "budget_held"
    """The rest of a budget is reserved by running requests."""
    BUDGET_UNCHECKED = "budget_unchecked"
    """The ledger's database fails. A limit that cannot be checked counts as reached."""
    PRICE_UNKNOWN = "price_unknown"
    """A spending limit applies, and no placement that may run the request has a price."""
    MAX_COST = "max_cost"
    """The worst-case cost exceeds the request's own limit at every placement."""


class OverflowReason(enum.StrEnum):
    """Reason for sending a request to a remote."""

    SATURATED = "saturated"
    """Self-hosted placements would miss the time to first token."""
    NOT_SERVED_HERE = "not_served_here"
    """No self-hosted placement of the model is in service."""


class AttemptOutcome(enum.StrEnum):
    """Result of an attempt."""

    OK = "ok"
    CANCELLED = "cancelled"
    """The client disconnected or its deadline passed."""
    FAILED = "failed"
    """The request itself is invalid, or content was sent. No further attempt follows."""
    RETRYABLE = "retryable"
    """The client has received nothing. Another placement may be tried."""
    SUPERSEDED = "superseded"
    """Another branch of the same request answered first. The tokens are waste."""
    EVICTED = "evicted"
    """The scheduler evicted the attempt before output was sent. The request waits again."""


class Fault(enum.StrEnum):
    """Party at fault for the end of an attempt, which decides how its placement is treated."""

    NONE = "none"
    """No fault, or the client's fault."""
    REQUEST = "request"
    """The placement, and the others of its pool, cannot serve this request."""
    BUSY = "busy"
    """The placement is overloaded or rate-limited. It receives fewer requests for a while."""
    PLACEMENT = "placement"
    """The placement failed while the request ran: an error, a cut, garbage. It may be the request's
    doing, which a comparison with other placements shows."""
    ABSENT = "absent"
    """No connection, no token in time, no such model. No request is suspected of it."""
    REJECTED = "rejected"
    """The placement calls the request invalid, or answers with nothing. Only if another placement
    takes the same request is it the placement's fault."""
    ACCOUNT = "account"
    """The upstream rejects the gateway's key, or the account has no credit. All requests will fail
    for a while."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one attempt, summed over all choices. None: the upstream does not report them.

    `prompt_tokens` includes cached tokens and tokens written to a cache. `cache_write_tokens`:
    written for about 5 minutes; `long_cache_write_tokens`: written for an hour.
    `completion_tokens` includes reasoning. `estimated`: counted by the gateway, not reported.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cache_write_tokens: int | None = None
    long_cache_write_tokens: int | None = None
    estimated: bool = False

    @property
    def all_cache_write_tokens(self) -> int | None:
        """Tokens written to caches of either lifetime; None: the upstream does not report them."""
        if self.cache_write_tokens is None and self.long_cache_write_tokens is None:
            return None
        return (self.cache_write_tokens or 0) + (self.long_cache_write_tokens or 0)


class Slo(msgspec.Struct, frozen=True, kw_only=True):
    """Service level objective of a request, in seconds.

    `ttft_s`: time to first token. `tpot_s`: mean time per output token. `max_queue_s`: longest time
    in the queue.
    """

    slo_class: SloClass
    ttft_s: float
    tpot_s: float
    max_queue_s: float


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A request, as the scheduler sees it.

    Attributes:
        request_id: unique among requests in progress.
        arrival_s, deadline_s: monotonic seconds.
        priority: priority within the service class. Higher values run first.
        prompt_tokens: an estimate unless `prompt_tokens_exact`.
        max_output_tokens: per choice; 0: the prompt is computed and nothing is generated.
        size_bytes: memory that the request occupies in the queue.
        remote_classes: classes of remotes that may serve it; empty: self-hosted placements only.
        unsupported_by: names of placements that do not support a field of the request.
        signed_by: names of remotes that made the newest reasoning signature in the history. Among
            remotes they are preferred, because only they can read it.
        weight: the tenant's relative share of a saturated model.
        prefix_blocks: chained hashes of the prompt's full blocks of `prefix_block_tokens` each. The
            first hash covers the cache salt, so equal hashes mean an equal prefix in the same
            cache.
        token_blocks: hashes of blocks of token ids, one entry per block size of the engines.
        inputs: sequences that an engine makes of the prompt, where nothing is generated.
        whole_answer: the client receives no output before the answer is complete.
        fingerprint: hash of everything that the engine is asked; equal for a retry of the client.
            0: unknown.
        constraint: hash of what the output must follow, such as a JSON schema; 0: nothing.
        features: names of the features that the request uses, joined by "+".
        charge_limit_nano_usd: most that all of its attempts may be charged; None: no limit.
        batch_work: it is of class batch, or an item of an offline job, and has the prices of these.
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
    inputs: int = 1
    session_id: str = ""
    end_user: str = ""
    labels_json: str = ""
    key_id: str = ""
    unsupported_by: frozenset[str] = frozenset()
    signed_by: frozenset[str] = frozenset()
    weight: float = 1.0
    prefix_blocks: tuple[int, ...] = ()
    prefix_block_tokens: int = 512
    token_blocks: tuple[TokenBlocks, ...] = ()
    whole_answer: bool = False
    fingerprint: int = 0
    constraint: int = 0
    features: str = ""
    charge_limit_nano_usd: int | None = None
    batch_work: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport:
    """Metrics of one engine (vLLM: /metrics). `at_s`: time of reading, monotonic seconds.

    None: not reported, or not believed, thus unknown. Token counters are totals since the engine's
    start. `kv_usage`: mean of the ranks, 0 to 1. `kv_usage_fullest`: the highest of the ranks.
    `kv_capacity_derived`: the capacity was computed from other figures of the engine.
    `max_running`: most sequences that it runs at once. `prefills`: of a disaggregated replica, the
    counts of its engines that prefill; `counts` and the KV cache are then those that decode, and
    `transfers` what travelled between them.
    """

    placement: str
    at_s: float
    running: int | None
    waiting: int | None
    kv_usage: float | None
    prompt_tokens_total: int | None
    generation_tokens_total: int | None
    kv_capacity_tokens: int | None = None
    context_tokens: int | None = None
    kv_usage_fullest: float | None = None
    kv_capacity_derived: bool = False
    max_running: int | None = None
    counts: EngineCounts | None = None
    prefills: EngineCounts | None = None
    transfers: KvTransfers | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingChanged:
    """A placement came into service or left it."""

    placement: str
    serving: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PricesChanged:
    """The dated prices of a placement changed; see `Placement`. None: unknown."""

    placement: str
    rates: TokenRates | None
    nano_usd_per_s: int | None
    adapter_rates: tuple[tuple[str, TokenRates], ...] = ()


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Cumulative output tokens of an attempt, summed over all choices."""

    request_id: str
    attempt: int
    output_tokens: int


class AttemptEnded(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt has ended. Token counts are those of the engine; None: not reported.

    `fault`: party at fault. `retry_after_s`: seconds for which the placement asks for no requests.
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


class Cancelled(msgspec.Struct, frozen=True, kw_only=True):
    """The client cancelled the request, whether it is queued or running."""

    request_id: str


PlacementEvent = (
    EngineReport | EngineSteps | ServingChanged | PricesChanged | CacheEvents | AdapterReport
)
Event = PlacementEvent | Progress | AttemptEnded | Cancelled


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """Action: send the request to this placement now.

    Attributes:
        attempt: attempt number, from 1.
        reason: text for a person.
        predicted_ttft_s, predicted_tpot_s: seconds; None: no prediction yet.
        dp_rank: data-parallel rank to use; None: the engine chooses.
        pool, replica: of a self-hosted placement; empty for a remote.
        overflow: reason for using a remote; None: not a remote.
        compare: the placement is not believed yet: if it calls the request invalid, or answers with
            nothing, the attempt ends as RETRYABLE, so that another placement is asked as well.
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
    compare: bool = False


class Evict(msgspec.Struct, frozen=True, kw_only=True):
    """Action: end the attempt's upstream call and report `AttemptEnded` with EVICTED.

    The action is a request. An attempt that has sent content continues and ends normally.
    """

    request_id: str
    attempt: int
    reason: str


class Refuse(msgspec.Struct, frozen=True, kw_only=True):
    """Action: refuse the request.

    Attributes:
        message: text for a person.
        retry_after_s: suggested retry delay in seconds; None: a retry cannot succeed.
        subject: the exhausted budget or the missing price; empty: none.
        other_request_id: the request that holds the id or the idempotency key; empty: none.
        window: that of the spent budget; None: none is spent.
    """

    request_id: str
    reason: RefusalReason
    message: str
    retry_after_s: float | None
    subject: str = ""
    other_request_id: str = ""
    window: Window | None = None


Action = Start | Refuse | Evict


class Tick(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a tick. `next_wake_s`: time of the next tick, monotonic seconds; None: at the next
    event."""

    actions: tuple[Action, ...]
    next_wake_s: float | None
