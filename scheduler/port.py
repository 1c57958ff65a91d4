"""The scheduler port: the only interface to the scheduler for pipeline, services and telemetry.

A deployment has one scheduler for all gateways. In one process the port is a direct call
(`gateway/scheduling`). Between processes the same messages are sent. All messages are frozen and
hold plain data. Their times are durations, except `Request.arrival_s` and `Request.deadline_s`,
which a transport must convert to the receiver's clock.

A client's request is submitted as its original branch. A hedge or a continuation is a further
branch. It is a separate request to the scheduler, and shares the client's claims (idempotency key,
key limits, budget) and costs. The answers for a branch are, in order: `Waiting` if it waits, then
`Started` or `Refuse`. The caller ends each started attempt with `AttemptEnd`. The scheduler answers
with `Settled` and, if the branch is retried, with the next `Started` or `Refuse`. A branch ends
with `Refuse`, or with an `AttemptEnd` that is not retryable. The caller ends every admitted request
with `RequestEnded`. No `RequestEnded` follows a refusal with a reason in `NOT_ADMITTED`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from scheduler.budgets.standing import BudgetStanding, KeySpend
from scheduler.contract import (
    AttemptOutcome,
    Evict,
    Fault,
    Progress,
    RefusalReason,
    Refuse,
    Request,
    Start,
    Usage,
)
from scheduler.decision_record import DecisionRecord
from scheduler.engine_steps import EngineTimes
from scheduler.fleet_view import FleetView
from scheduler.limits.breaker import BreakerPhase
from scheduler.limits.rate_limit import NO_RATE_LIMITS, RateLimits, Refusal
from scheduler.metering.meter import PoolCost
from scheduler.metering.report import KindRates
from scheduler.metering.settlement import SettledAttempt
from scheduler.pricing import TokenRates
from scheduler.snapshot import SchedulerSnapshot


class BranchKind(enum.StrEnum):
    """Purpose of a branch."""

    ORIGINAL = "original"
    HEDGE = "hedge"
    """A second attempt beside the first. It starts at once or is refused."""
    CONTINUATION = "continuation"
    """Continues an answer that broke off."""


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """A branch to run.

    Attributes:
        request: its `request_id` must be unique among requests in progress.
        original_id: `request_id` of the client's request; for an original, that of `request`.
        beside: for a hedge, the placement of its original branch. The hedge avoids it and its
            failure domain.
        idempotency_key: the client's; empty: none. This and the following fields: originals only.
        key_limits: limits of the API key; its request was taken before, by `take_request`.
        prompt_tokens_bound: upper bound of the prompt tokens, for budget reservations.
        max_cost_nano_usd: highest allowed charge in nano-USD; None: unlimited.
        may_be_continued: the answer may be continued elsewhere, and budgets reserve for that.
        wants_decision: `Started` must include the decision record.
    """

    request: Request
    original_id: str
    kind: BranchKind = BranchKind.ORIGINAL
    beside: str = ""
    idempotency_key: str = ""
    key_limits: RateLimits = NO_RATE_LIMITS
    prompt_tokens_bound: int = 0
    max_cost_nano_usd: int | None = None
    may_be_continued: bool = False
    wants_decision: bool = False


class AttemptEnd(msgspec.Struct, frozen=True, kw_only=True):
    """Result of one attempt, from which the scheduler, the meter and the ledger are updated.

    Attributes:
        attempt: attempt number, as in `Start`.
        detail: reason, for a person.
        usage: tokens used, as far as known; None: unknown.
        engine: seconds that the engine says it spent on it; None: not told.
        reported: the upstream reported `usage` for the whole attempt. Only then does the scheduler
            learn from it.
        committed: the client has received output of the attempt.
        may_be_continued: the answer broke off, and another branch may continue it.
        abandoned: it failed, or was evicted, while another branch ran. It must not be retried.
        duration_s: seconds since the attempt's start.
        first_token_s: seconds from the attempt's start to its first token; None: no token.
        ttft_s: seconds from the request's arrival to the first token; None: unknown.
        tpot_s: mean seconds per output token after the first, per choice; None: unknown.
        output_tokens: output tokens received.
        fault: party at fault.
        retry_after_s: seconds for which the placement asks for no requests; None: unknown.
    """

    request_id: str
    attempt: int
    outcome: AttemptOutcome
    detail: str
    usage: Usage | None
    reported: bool
    committed: bool
    may_be_continued: bool
    abandoned: bool
    duration_s: float
    first_token_s: float | None
    ttft_s: float | None
    tpot_s: float | None
    output_tokens: int
    fault: Fault
    retry_after_s: float | None
    engine: EngineTimes | None = None


class RequestEnded(msgspec.Struct, frozen=True, kw_only=True):
    """A client's request has ended. Its remaining branches are cancelled and its claims released.

    `used_tokens`: prompt and output tokens, as counted for the key's limits.
    `keep_idempotency_key`: the key stays in use because the client may have output; otherwise a
    retry may reuse it at once.
    """

    request_id: str
    used_tokens: int
    keep_idempotency_key: bool


class SlotFreed(msgspec.Struct, frozen=True, kw_only=True):
    """A slot of a key or of a tenant is free again, which was held from `take_slot` on."""

    key_id: str


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """A placement was chosen for the branch. `start.attempt` numbers the attempts of the client's
    request over all branches. `decision`: decision record, if requested."""

    start: Start
    decision: DecisionRecord | None = None


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """The branch waits. `position`: number of waiting requests, including this one."""

    request_id: str
    position: int


class CountPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """A budget cannot reserve the upper bound. The caller must count the prompt tokens and call
    `prompt_counted`."""

    request_id: str


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """The cost of an attempt that has ended."""

    attempt: SettledAttempt


Answer = Started | Refuse | Evict | Waiting | CountPrompt | Settled
Message = Progress | AttemptEnd | RequestEnded | SlotFreed
"""Messages about running branches, and freed slots. `attempt` is the number in `Start`."""
NOT_ADMITTED = frozenset(
    {
        *(RefusalReason.REQUEST_IN_FLIGHT, RefusalReason.KEY_LIMIT),
        RefusalReason.IDEMPOTENCY_KEY_USED,
        *(RefusalReason.BUDGET_SPENT, RefusalReason.BUDGET_HELD, RefusalReason.BUDGET_UNCHECKED),
        *(RefusalReason.PRICE_UNKNOWN, RefusalReason.MAX_COST),
    }
)
"""Reasons of refusals before admission. Nothing is held, and no `RequestEnded` follows."""
RETRY_AFTER_S = 1.0
"""Retry hint where the scheduler cannot be reached."""


class SchedulerAway(Exception):
    """The scheduler, in another process, cannot be reached now."""

    def __init__(self) -> None:
        super().__init__("the scheduler cannot be reached now")


Deliver = Callable[[Answer], None]
"""Receives the answers for one branch. Must neither block nor raise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetFigures:
    """Figures of the fleet for metrics and WatchFleet.

    `output_tokens_per_s`: keyed by placement; absent while unknown. `breaker_phases`: keyed by
    placement. `overflowed_requests`: attempts at remotes since the start.
    """

    snapshot: SchedulerSnapshot
    output_tokens_per_s: Mapping[str, float] = field(default_factory=dict)
    breaker_phases: Mapping[str, BreakerPhase] = field(default_factory=dict)
    overflowed_requests: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteCost:
    """Price of a pool's tokens in a window at one remote, in nano-USD."""

    remote: str
    price_row_id: str
    nano_usd: int
    nano_usd_per_mtok: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolCostReport:
    """Costs of a pool. `cost`: None: unknown pool. `pools`: names of all pools."""

    cost: PoolCost | None
    remotes: tuple[RemoteCost, ...]
    pools: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """The newest decision for a request, and its age in seconds."""

    decision: DecisionRecord
    age_s: float


class SchedulerPort(Protocol):
    """The scheduler of the deployment."""

    @property
    def fleet(self) -> FleetView:
        """The newest view of the fleet."""

    async def take_request(self, key_id: str, limits: RateLimits) -> Refusal | None:
        """Takes one of a key's requests per minute, for any RPC. Returns the refusal, or None."""

    async def take_slot(self, key_id: str, limits: RateLimits) -> Refusal | None:
        """Takes one of the `concurrent_requests` of a key, for an RPC that generates nothing, or of
        a tenant, for any RPC; `key_id` names either. `SlotFreed` gives it back. Returns the
        refusal, or None."""

    async def submit(self, submission: Submission, deliver: Deliver) -> None:
        """Submits a branch. `deliver` receives the answers, possibly before this returns."""

    async def prompt_counted(self, request_id: str, prompt_tokens: int | None) -> None:
        """Answers `CountPrompt`. None: no replica could count."""

    def send(self, message: Message) -> None:
        """Reports the progress or end of a branch or request. Messages about an ended one are
        ignored."""

    async def quote(self, request: Request) -> DecisionRecord:
        """Returns the decision that would be made for the request now. The model must be known."""

    async def explain(self, request_id: str) -> Explained | None:
        """Returns the newest decision for a recent request; None: the record was dropped."""

    async def figures(self) -> FleetFigures:
        """Returns the current figures of the fleet."""

    async def pool_cost(self, pool: str, window_ns: int) -> PoolCostReport:
        """Returns the costs of a pool over the last `window_ns` nanoseconds."""

    async def pool_rates(self) -> Mapping[str, tuple[KindRates, ...]]:
        """Returns the cost rates of every pool over the last hour, at most some seconds old."""

    async def token_rates(self) -> Mapping[str, TokenRates]:
        """Returns the token rates in force, by placement; absent where unknown."""

    async def budget_standings(self, tenant: str, key_id: str) -> tuple[BudgetStanding, ...] | None:
        """Returns how the budgets of a key stand, those of single sessions apart; None: unknown,
        because the ledger does not answer."""

    async def key_spend(self, tenant: str, key_id: str) -> KeySpend | None:
        """Returns what a key has spent; None: unknown, because the ledger does not answer."""

    async def drain(self, name: str) -> int:
        """Stops new requests to a placement, or to all ranks of a replica. Returns the number of
        requests still running there."""

    async def undrain(self, name: str) -> None:
        """Ends a drain. The placement serves again once its health check passes."""
