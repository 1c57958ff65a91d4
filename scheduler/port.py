"""The port of the scheduler: the only way to it, for the pipeline, the services and telemetry.

There is one scheduler for a deployment, whoever asks. In one process the port is a direct call
(`gateway/scheduling`); between processes the same messages travel. All are frozen and hold plain
data. Times that they carry are durations, but for `Request.arrival_s` and `deadline_s`, which a
transport has to translate to the clock of its other end.

A request of a client is submitted as its original branch. A hedge or a continuation is another
branch of it: a request of its own to the scheduler, which shares the client's claims (idempotency
key, key limits, budget) and its account. Per branch the answers are, in order: `Waiting` where it
waits, then `Start` or `Refuse`; each `Start` is followed by one `AttemptEnd` from the caller, which
is answered by `Settled` and, where the request goes on, by the next `Start` or `Refuse`. A branch
ends with `Refuse`, or with an `AttemptEnd` that is not retryable. The whole request ends with
`RequestEnded`, whatever happened; only a refusal with a reason of `NOT_ADMITTED` leaves nothing to
end.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

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
from scheduler.decisions import Decision
from scheduler.fleet_view import FleetView
from scheduler.limits.breaker import BreakerPhase
from scheduler.limits.rate_limit import NO_RATE_LIMITS, RateLimits
from scheduler.metering.meter import PoolCost
from scheduler.metering.report import KindRates
from scheduler.metering.settlement import SettledAttempt
from scheduler.snapshot import SchedulerSnapshot


class BranchKind(enum.StrEnum):
    """What a branch of a client's request is for."""

    ORIGINAL = "original"
    HEDGE = "hedge"
    """A second attempt beside the first: it starts at once, or is refused."""
    CONTINUATION = "continuation"
    """It continues an answer that broke off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A branch to be run.

    Attributes:
        request: its `request_id` must be new among those that have not ended.
        original_id: `request_id` of the client's request; the request's own for an original.
        beside: of a hedge: the placement that its branch runs on, to be avoided with everything
            that shares its failure domain.
        idempotency_key: the client's; empty: none. This field and those below: originals only.
        key_limits: limits of the API key.
        prompt_tokens_bound: no fewer than the prompt has: what budgets reserve for.
        max_cost_nano_usd: most that it may be charged; None: no limit of its own.
        may_be_continued: the answer may be continued elsewhere: budgets reserve for that, too.
        wants_decision: `Started` shall carry the decision's record.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptEnd:
    """How an attempt ended: the one record that everyone is told from.

    Attributes:
        attempt: its number, as in `Start`.
        detail: the reason, for a reader.
        usage: what it used as far as is known; None: nothing is known.
        reported: `usage` is the whole attempt's, as the upstream ended it: what the scheduler may
            learn from.
        committed: the client has output of it.
        goes_on: its answer broke off, and another branch may continue it.
        abandoned: it failed, or was evicted, while another branch ran: it shall not be retried.
        duration_s: since its start.
        first_token_s: from its own start to its first token; None: none came.
        ttft_s, tpot_s: as the SLO counts them: from the request's arrival, and per later token of
            a choice; None: not known.
        output_tokens: output tokens that came.
        fault, retry_after_s: whose fault a bad end was, and how long the placement asks to be
            spared.
    """

    request_id: str
    attempt: int
    outcome: AttemptOutcome
    detail: str
    usage: Usage | None
    reported: bool
    committed: bool
    goes_on: bool
    abandoned: bool
    duration_s: float
    first_token_s: float | None
    ttft_s: float | None
    tpot_s: float | None
    output_tokens: int
    fault: Fault
    retry_after_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestEnded:
    """The client's request is over: its branches that still run or wait are cancelled, and its
    claims are settled.

    `used_tokens`: prompt and output, as they count for the key's limits. `keep_idempotency_key`:
    the key stays taken, since the client may have output; else a retry may use it at once.
    """

    request_id: str
    used_tokens: int
    keep_idempotency_key: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The answer that a placement was found. `start.attempt` numbers the attempts of the client's
    request, over all branches. `decision`: where it was asked for."""

    start: Start
    decision: Decision | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """The branch waits. `position`: requests that wait, itself included."""

    request_id: str
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CountPrompt:
    """A budget cannot hold the bound: count the prompt's tokens, then call `prompt_counted`."""

    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The account of an attempt that has ended."""

    account: SettledAttempt


Answer = Started | Refuse | Evict | Waiting | CountPrompt | Settled
Message = Progress | AttemptEnd | RequestEnded
"""What the pipeline tells of branches that run. `attempt` is the number in `Start`."""
NOT_ADMITTED = frozenset(
    {
        *(RefusalReason.REQUEST_IN_FLIGHT, RefusalReason.KEY_LIMIT),
        *(RefusalReason.IDEMPOTENCY_KEY_USED, RefusalReason.IDEMPOTENCY_KEYS),
        *(RefusalReason.BUDGET_SPENT, RefusalReason.BUDGET_HELD, RefusalReason.BUDGET_UNCHECKED),
        *(RefusalReason.PRICE_UNKNOWN, RefusalReason.MAX_COST),
    }
)
"""Refusals before a request is admitted: nothing of it is held, and no `RequestEnded` follows."""
Deliver = Callable[[Answer], None]
"""Takes the answers for one branch; must neither block nor raise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetFigures:
    """The fleet for its readers. `output_tokens_per_s`: absent where unknown. `breaker_phases`: by
    placement. `overflowed_requests`: attempts that ran on remotes, since the start."""

    snapshot: SchedulerSnapshot
    output_tokens_per_s: Mapping[str, float] = field(default_factory=dict)
    breaker_phases: Mapping[str, BreakerPhase] = field(default_factory=dict)
    overflowed_requests: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteCost:
    """What the tokens of a pool's window would have cost at a remote, nano-USD."""

    remote: str
    price_row_id: str
    nano_usd: int
    nano_usd_per_mtok: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolCostReport:
    """The account of a pool. `cost`: None: there is no such pool. `pools`: all that there are."""

    cost: PoolCost | None
    remotes: tuple[RemoteCost, ...]
    pools: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """The newest decision for a request, and its age."""

    decision: Decision
    age_s: float


class SchedulerPort(Protocol):
    """The scheduler of the deployment."""

    @property
    def fleet(self) -> FleetView:
        """The newest view of the fleet."""

    async def submit(self, submission: Submission, deliver: Deliver) -> None:
        """Takes a branch; the answers come through `deliver`, perhaps before this returns."""

    async def prompt_counted(self, request_id: str, prompt_tokens: int | None) -> None:
        """Answers `CountPrompt`. None: no server could count."""

    def send(self, message: Message) -> None:
        """Tells what became of a branch. A message about one that has ended is ignored."""

    async def quote(self, request: Request) -> Decision:
        """What would be decided for the request now. The model must be known."""

    async def explain(self, request_id: str) -> Explained | None:
        """The newest decision for a request of the last ones; None: it is not kept."""

    async def figures(self) -> FleetFigures:
        """The fleet as it stands."""

    async def pool_cost(self, pool: str, window_ns: int) -> PoolCostReport:
        """What a pool's tokens cost over the newest window."""

    async def pool_rates(self) -> Mapping[str, tuple[KindRates, ...]]:
        """Cost rates of every pool over the last hour, some seconds old at most."""

    async def drain(self, name: str) -> int:
        """Sends no new request to this placement, or to the ranks of this replica; returns the
        requests that still run there."""

    async def undrain(self, name: str) -> None:
        """Takes it back: what its probes say holds again."""
