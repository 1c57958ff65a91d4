"""The placements and what runs on them: own dispatches (instant truth) and engine reports (lagged).

A `PlacementState` counts what the scheduler itself sent there and took back; what an engine runs
beyond that is external load. The scheduler is its only writer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from scheduler.pricing import TokenRates
from scheduler.rate_limit import NO_RATE_LIMITS, RateLimits
from scheduler.snapshot import PlacementSnapshot
from scheduler.step_model import StepModel
from scheduler.types import EngineReport, PlacementKind, Request

REPORT_STALE_S = 5.0
"""A report older than this says nothing of external load: five default probe intervals."""
TTFT_WEIGHT = 0.1
"""Weight of a new time to first token in the running mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A place where requests can run: facts that do not change while it is configured.

    `max_running`: sequences at once; `pool`: empty for a remote; `group`: what steps together,
    empty where the placement is alone in it; `dp_rank`: the rank to pin, or None;
    `kv_capacity_tokens` and `context_tokens`: None when unknown; `step_model`: None for a remote,
    which tells nothing of its engine. `rates`: a remote's list price or an own pool's showback
    rate; `nano_usd_per_s`: the bill of an own group; None: unknown, never free.
    `send_limits`: what a remote takes a minute; `fate`: placements of one such name fail together
    ("": by itself).
    """

    name: str
    kind: PlacementKind
    model: str
    max_running: int
    pool: str = ""
    group: str = ""
    dp_rank: int | None = None
    remote_class: str = ""
    kv_capacity_tokens: int | None = None
    context_tokens: int | None = None
    step_model: StepModel | None = None
    rates: TokenRates | None = None
    nano_usd_per_s: int | None = None
    send_limits: RateLimits = NO_RATE_LIMITS
    fate: str = ""


@dataclass(slots=True, kw_only=True)
class Resident:
    """An attempt that runs on a placement."""

    request: Request
    started_s: float
    kv_tokens: int
    """Reserved: prompt and the longest output that the request may have."""
    prefill_s: float
    """Predicted time of its prefill."""
    expected_output_tokens: float
    output_tokens: int = 0

    @property
    def remaining_tokens(self) -> float:
        """Output that is still expected."""
        return max(0.0, self.expected_output_tokens - self.output_tokens)


@dataclass(slots=True)
class PlacementState:
    """One placement now. The sums over `residents` are kept, not counted anew."""

    facts: Placement
    serving: bool = False
    reason: str = "not probed yet"
    residents: dict[str, Resident] = field(default_factory=dict)
    sequences: int = 0
    kv_tokens: int = 0
    pending_prefill_s: float = 0.0
    """Predicted prefill of the residents that have no token yet."""
    remaining_tokens: float = 0.0
    """Output that is still expected of the residents."""
    report: EngineReport | None = None
    external_sequences: int = 0
    _beyond: int = 0
    idle_since_s: float | None = None
    """When the last attempt left it; None: one runs, or none ever ran."""
    ttft_s: float | None = None
    """Running mean of the times to first token; None: none seen."""

    @property
    def kv_capacity_tokens(self) -> int | None:
        """KV cache in tokens: configured, else what the engine reports."""
        if self.facts.kv_capacity_tokens is not None:
            return self.facts.kv_capacity_tokens
        return self.report.kv_capacity_tokens if self.report else None

    @property
    def context_tokens(self) -> int | None:
        """Most tokens of one sequence: configured, else what the engine reports."""
        if self.facts.context_tokens is not None:
            return self.facts.context_tokens
        return self.report.context_tokens if self.report else None

    def external(self, now: float) -> int:
        """Sequences in the engine that others sent; 0 when the report is stale."""
        if self.report is None or now - self.report.at_s > REPORT_STALE_S:
            return 0
        return self.external_sequences

    def reserve_tokens(self, request: Request) -> int:
        """KV tokens that `request` is counted with: its longest case, at most the whole cache."""
        longest = request.prompt_tokens + request.choices * request.max_output_tokens
        capacity = self.kv_capacity_tokens
        return longest if capacity is None else min(longest, capacity)

    def snapshot(self, now: float) -> PlacementSnapshot:
        """Figures to show."""
        facts, report = self.facts, self.report
        batch = self.sequences + self.external(now)
        model = facts.step_model
        kv_tokens = sum(r.request.prompt_tokens + r.output_tokens for r in self.residents.values())
        age_s = None if report is None else max(0.0, now - report.at_s)
        idle_since_s = now if self.idle_since_s is None else self.idle_since_s
        return PlacementSnapshot(
            name=facts.name,
            pool=facts.pool,
            model=facts.model,
            kind=facts.kind,
            group=facts.group or facts.name,
            dp_rank=facts.dp_rank,
            serving=self.serving,
            reason=self.reason,
            running_requests=len(self.residents),
            running_sequences=self.sequences,
            waiting_in_engine=None if report is None else report.waiting,
            external_sequences=self.external(now),
            kv_tokens=kv_tokens,
            kv_reserved_tokens=self.kv_tokens,
            kv_capacity_tokens=self.kv_capacity_tokens,
            pending_prefill_s=self.pending_prefill_s,
            predicted_batch=batch,
            distinct_experts=None if model is None else model.distinct_experts(batch),
            decode_step_s=None if model is None else model.decode_step_s(batch, kv_tokens),
            report_age_s=age_s,
            report_stale=age_s is None or age_s > REPORT_STALE_S,
            idle_s=now - idle_since_s,
            releasable=False,
            ttft_s=self.ttft_s,
            error_share=0.0,
        )

    def has_room(self, request: Request, now: float) -> bool:
        """Whether `request` could start at once, in slots and in KV cache."""
        if self.sequences + self.external(now) + request.choices > self.facts.max_running:
            # A request with more choices than slots runs alone: the engine queues the rest.
            return self.sequences + self.external(now) == 0
        capacity = self.kv_capacity_tokens
        return capacity is None or self.kv_tokens + self.reserve_tokens(request) <= capacity

    def add(self, request: Request, expected_output_tokens: float, now: float) -> None:
        """Counts an attempt in."""
        model = self.facts.step_model
        prompt_tokens = request.prompt_tokens
        resident = Resident(
            request=request,
            started_s=now,
            kv_tokens=self.reserve_tokens(request),
            prefill_s=model.prefill_time_s(prompt_tokens, prompt_tokens) if model else 0.0,
            expected_output_tokens=expected_output_tokens,
        )
        self.residents[request.request_id] = resident
        self.idle_since_s = None
        self.sequences += request.choices
        self.kv_tokens += resident.kv_tokens
        self.pending_prefill_s += resident.prefill_s
        self.remaining_tokens += resident.remaining_tokens

    def progress(self, request_id: str, output_tokens: int, now: float) -> None:
        """Takes the tokens that an attempt has produced so far; an older count changes nothing."""
        resident = self.residents[request_id]
        if output_tokens <= resident.output_tokens:
            return
        if resident.output_tokens == 0:
            self.pending_prefill_s -= resident.prefill_s
            seen_s = now - resident.started_s
            mean_s = seen_s if self.ttft_s is None else self.ttft_s
            self.ttft_s = mean_s + TTFT_WEIGHT * (seen_s - mean_s)
        self.remaining_tokens -= resident.remaining_tokens
        resident.output_tokens = output_tokens
        self.remaining_tokens += resident.remaining_tokens

    def remove(self, request_id: str, now: float) -> None:
        """Counts an attempt out."""
        resident = self.residents.pop(request_id)
        self.sequences -= resident.request.choices
        self.kv_tokens -= resident.kv_tokens
        self.remaining_tokens -= resident.remaining_tokens
        if resident.output_tokens == 0:
            self.pending_prefill_s -= resident.prefill_s
        if not self.residents:
            # Sums of floats drift by rounding; an empty placement is exactly empty.
            self.pending_prefill_s = self.remaining_tokens = 0.0
            self.idle_since_s = now

    def take_report(self, report: EngineReport) -> None:
        """Takes an engine's report; what it holds beyond the own attempts is external load.

        An engine tells of the start and end of an attempt a step later than the scheduler knows
        it, so only what two reports in a row show counts.
        """
        beyond = max(0, report.running + report.waiting - self.sequences)
        self.external_sequences = min(beyond, self._beyond)
        self._beyond = beyond
        self.report = report


class Fleet:
    """Every placement, by name and by model."""

    def __init__(self, placements: Iterable[Placement]) -> None:
        self.by_name: dict[str, PlacementState] = {}
        self.by_model: dict[str, list[PlacementState]] = {}
        for facts in placements:
            if facts.name in self.by_name:
                raise ValueError(f"placement {facts.name!r} is there twice: names must differ")
            state = PlacementState(facts)
            self.by_name[facts.name] = state
            self.by_model.setdefault(facts.model, []).append(state)
