"""Placements and their load: the scheduler's own starts (exact) and engine reports (lagged).

A `PlacementState` counts the attempts that the scheduler started and ended; any other load of an
engine is external load. The scheduler is its only writer. States of self-hosted placements
are mirrored in the arrays of `placement/self_hosted.py`, which decisions read.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from scheduler.adapters.adapter_slots import AdapterSlots
from scheduler.contract import EngineReport, Objective, PlacementKind
from scheduler.limits.rate_limit import NO_RATE_LIMITS, RateLimits
from scheduler.pricing import TokenRates
from scheduler.provenance import Provenance
from scheduler.resident import Resident
from scheduler.step_time.step_model import StepModel

REPORT_STALE_S = 5.0
"""Age from which a report is not used for external load: five default probe intervals."""
OVERDUE_FACTOR = 1.5
"""Expected total time of an overdue prefill, as a multiple of its time so far."""
SEEN_WEIGHT = 0.1
"""Weight of a new time to first token, or of a new outcome, in the running mean."""
PREEMPTION_RESERVE = 0.01
"""Share of the KV cache that an observed preemption adds to the reserve. The reserve halves every
`RESERVE_HALF_LIFE_S` and is `MOST_RESERVE` at most."""
RESERVE_HALF_LIFE_S = 60.0
MOST_RESERVE = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A place where requests can run. Its facts, except prices, change only by a reload.

    Attributes:
        max_running: most sequences that run at once. `max_running_assumed`: nobody stated it, and
            the engine's own figure counts where it tells one.
        pool: empty for a remote.
        replica: name within the pool, with the pinned rank; empty for a remote.
        group: placements of one group run the same engine steps, as the data-parallel ranks of a
            replica do; empty if the placement is the only one of its group.
        dp_rank: the rank to pin, or None.
        kv_capacity_tokens, context_tokens: None if unknown.
        step_model: None for a remote, whose engine is not observed.
        prefill_price_share: of a disaggregated replica, the share of `nano_usd_per_s` that pays the
            nodes which only prefill, 0 to 1; None: prefill and decode share all steps.
        adapters: LoRA adapters that the configuration names; requests may give their names.
        rates: list price of a remote, or showback rate of a self-hosted pool; None if unknown,
            an unknown rate never counts as free.
        adapter_rates: showback rates of adapters that have their own, by adapter.
        nano_usd_per_s: cost of a self-hosted group; None if unknown, which never counts as free.
        send_limits: rate limits of a remote.
        incarnation: names the server behind the placement, for example its address. A reload that
            changes it starts the engine's counters, caches and breaker anew.
        failure_domain: placements of the same domain fail together; empty if no other shares it.
        objective: whether requests are packed or spread; the same for all pools of one model.
        release_delay_s: a group that has been empty for this long is reported as releasable.
        start_s: an autoscaler starts a server within this time when requests wait and none is in
            service; None: nobody does, and requests are refused then.
    """

    name: str
    kind: PlacementKind
    model: str
    max_running: int
    max_running_assumed: bool = False
    pool: str = ""
    replica: str = ""
    group: str = ""
    dp_rank: int | None = None
    remote_class: str = ""
    kv_capacity_tokens: int | None = None
    context_tokens: int | None = None
    step_model: StepModel | None = None
    adapters: tuple[str, ...] = ()
    prefill_price_share: float | None = None
    rates: TokenRates | None = None
    adapter_rates: tuple[tuple[str, TokenRates], ...] = ()
    nano_usd_per_s: int | None = None
    send_limits: RateLimits = NO_RATE_LIMITS
    incarnation: str = ""
    failure_domain: str = ""
    objective: Objective = Objective.LATENCY
    release_delay_s: float = 30.0
    start_s: float | None = None

    @property
    def group_name(self) -> str:
        """Name of the group; a placement that is alone in its group has its own."""
        return self.group or self.name

    def rates_of(self, model: str) -> TokenRates | None:
        """Rates of a model or adapter: its own, else those of the placement; None: unknown."""
        return dict(self.adapter_rates).get(model, self.rates)

    def is_same_server(self, other: Placement) -> bool:
        """Whether both describe the same server and model. Other facts may differ."""
        return _identity(self) == _identity(other)


def _identity(facts: Placement) -> tuple[object, ...]:
    place = facts.name, facts.model, facts.kind, facts.group_name, facts.dp_rank
    return (*place, facts.incarnation)


@dataclass(slots=True)
class PlacementState:
    """One placement now. Sums over `residents` are updated, not recomputed."""

    facts: Placement
    serving: bool = False
    reason: str = "not probed yet"
    residents: dict[str, Resident] = field(default_factory=dict)
    sequences: int = 0
    more_inputs: int = 0
    """Sequences that the engine makes of the residents' inputs beyond `sequences`. They need no
    slot here: they are as short as their prefill."""
    kv_tokens: int = 0
    kv_reserved_tokens: int = 0
    kv_variance: float = 0.0
    """Variance of the tokens that the residents need beyond the reserved ones: the sum of their
    squared spreads, because output lengths are independent."""
    pending: dict[str, float] = field(default_factory=dict)
    """Prefill seconds of the residents without a first token, in the order of their starts."""
    prefill_end_s: float = 0.0
    """Predicted end of all pending prefills."""
    prefill_began_s: float = 0.0
    """Assumed start of the first pending prefill."""
    prefill_joined: bool = False
    """Whether it was sent while a step ran, so that it waits for the end of that step."""
    computing: int = 0
    """Number of pending prefills, from the first, that are computed together."""
    report: EngineReport | None = None
    external_sequences: int = 0
    external_kv_tokens: int = 0
    idle_since_s: float | None = None
    """End of the last attempt; None while one runs, or if none has run."""
    ttft_s: float | None = None
    """Running mean of the times from start to first token; None before the first."""
    error_share: float = 0.0
    """Running mean of the share of attempts that failed by the placement's own fault."""
    outcomes: int = 0
    """Number of outcomes in `error_share`."""
    adapters: AdapterSlots = field(default_factory=AdapterSlots)
    cache_trust: float = 1.0
    """Running mean of reported cached tokens over expected cached tokens."""
    _beyond: int = 0
    _reserve: float = 0.0
    _reserve_at_s: float = 0.0

    @property
    def kv_capacity_tokens(self) -> int | None:
        """KV cache in tokens: the configured value, else the engine's report."""
        if self.facts.kv_capacity_tokens is not None:
            return self.facts.kv_capacity_tokens
        return self.report.kv_capacity_tokens if self.report else None

    @property
    def context_tokens(self) -> int | None:
        """Most tokens of one sequence: the configured value, else the engine's report."""
        if self.facts.context_tokens is not None:
            return self.facts.context_tokens
        return self.report.context_tokens if self.report else None

    @property
    def max_running(self) -> int:
        """Most sequences at once: the configured value, else the engine's report, else the assumed
        value."""
        told = self.report.max_running if self.report else None
        assumed = self.facts.max_running_assumed
        return told if assumed and told is not None else self.facts.max_running

    @property
    def kv_capacity_source(self) -> Provenance:
        """Where the capacity of the KV cache comes from."""
        if self.facts.kv_capacity_tokens is not None:
            return Provenance.CONFIGURED
        if self.report is None or self.report.kv_capacity_tokens is None:
            return Provenance.UNKNOWN
        return Provenance.DERIVED if self.report.kv_capacity_derived else Provenance.TOLD

    @property
    def context_source(self) -> Provenance:
        """Where the context length comes from."""
        if self.facts.context_tokens is not None:
            return Provenance.CONFIGURED
        return Provenance.UNKNOWN if self.context_tokens is None else Provenance.TOLD

    @property
    def max_running_source(self) -> Provenance:
        """Where the most sequences at once come from."""
        if not self.facts.max_running_assumed:
            return Provenance.CONFIGURED
        told = self.report is not None and self.report.max_running is not None
        return Provenance.TOLD if told else Provenance.ASSUMED

    def gauges_source(self, now: float) -> Provenance:
        """Whether the engine tells what runs and waits there; unknown: it does not, its report is
        stale, or its gauges are not believed."""
        if self.report is None or self.report.running is None or self.stale(now):
            return Provenance.UNKNOWN
        return Provenance.TOLD

    @property
    def has_unproven_retry(self) -> bool:
        """Whether a request that failed elsewhere has no first token here yet."""
        return any(self.residents[request_id].is_retry for request_id in self.pending)

    def stale(self, now: float) -> bool:
        """Whether the newest report is missing, or too old to show external load."""
        return self.report is None or now - self.report.at_s > REPORT_STALE_S

    def external(self, now: float) -> int:
        """Sequences in the engine that other clients sent; 0 when the report is stale."""
        return 0 if self.stale(now) else self.external_sequences

    def reserve_share(self, now: float) -> float:
        """Share of the KV cache to keep free after observed preemptions; it halves with time."""
        if not self._reserve:
            return 0.0
        return float(self._reserve * 0.5 ** ((now - self._reserve_at_s) / RESERVE_HALF_LIFE_S))

    def add(self, resident: Resident, now: float) -> None:
        """Adds an attempt."""
        request = resident.request
        self.residents[request.request_id] = resident
        if request.model != self.facts.model:
            self.adapters.begin(request.model)
        self.idle_since_s = None
        self.sequences += request.choices
        self.more_inputs += request.inputs - 1
        self.kv_tokens += resident.kv_tokens
        self.kv_reserved_tokens += resident.kv_reserved_tokens
        self.kv_variance += resident.kv_spread_tokens**2
        if not self.pending:
            self.prefill_began_s = max(now, self.prefill_end_s)
            self.prefill_joined, self.computing = self.sequences > request.choices, 1
        self.pending[request.request_id] = resident.prefill_s
        self.prefill_end_s = max(now, self.prefill_end_s) + resident.prefill_s

    def progress(self, request_id: str, output_tokens: int, now: float) -> int:
        """Records the tokens that an attempt has produced so far. Returns how many are new."""
        resident = self.residents[request_id]
        news = output_tokens - resident.output_tokens
        if news <= 0:
            return 0
        if resident.output_tokens == 0:
            del self.pending[request_id]
            # A first token shows when a prefill really ended, so the prediction error ends here.
            self.prefill_began_s = now
            self.prefill_joined, self.computing = False, len(self.pending)
            self.prefill_end_s = now + sum(self.pending.values())
            seen_s = now - resident.started_s
            mean_s = seen_s if self.ttft_s is None else self.ttft_s
            self.ttft_s = mean_s + SEEN_WEIGHT * (seen_s - mean_s)
        resident.output_tokens = output_tokens
        self.kv_tokens += news
        more = resident.kv_tokens - resident.kv_reserved_tokens
        if more > 0:
            # The output exceeds the prediction, so the reservation is raised to the real size.
            resident.kv_reserved_tokens += more
            self.kv_reserved_tokens += more
        return news

    def resume_output(self, request_id: str, output_tokens: int) -> None:
        """Records tokens that an attempt had before it was added here. Its time to first token is
        not known."""
        resident = self.residents[request_id]
        self.prefill_end_s -= self.pending.pop(request_id)
        resident.output_tokens = output_tokens
        self.kv_tokens += output_tokens
        more = max(0, resident.kv_tokens - resident.kv_reserved_tokens)
        resident.kv_reserved_tokens += more
        self.kv_reserved_tokens += more

    def extend_overdue_prefill(self, model: StepModel, now: float) -> None:
        """Extends the first pending prefill, which takes longer than predicted.

        Either its prefix was not in the cache, or the prediction is wrong. The prefills behind it
        are still pending in both cases.
        """
        request_id = next(iter(self.pending))
        prompt_tokens = self.residents[request_id].request.prompt_tokens
        whole_s = model.prefill_time_s(prompt_tokens, prompt_tokens)
        taken_s = now - self.prefill_began_s
        self.pending[request_id] = max(whole_s, OVERDUE_FACTOR * taken_s)
        self.prefill_end_s = self.prefill_began_s + sum(self.pending.values())

    def remove(self, request_id: str, now: float) -> Resident:
        """Removes an attempt."""
        resident = self.residents.pop(request_id)
        if resident.request.model != self.facts.model:
            self.adapters.end(resident.request.model)
        self.sequences -= resident.request.choices
        self.more_inputs -= resident.request.inputs - 1
        self.kv_tokens -= resident.kv_tokens
        self.kv_reserved_tokens -= resident.kv_reserved_tokens
        # Sums of floats drift by rounding; without residents the variance is exactly 0.
        spread = resident.kv_spread_tokens**2
        self.kv_variance = max(0.0, self.kv_variance - spread) if self.residents else 0.0
        if request_id in self.pending:
            if request_id == next(iter(self.pending)):
                self.prefill_began_s, self.prefill_joined = now, True
            self.prefill_end_s -= self.pending.pop(request_id)
            self.computing = max(1, min(self.computing, len(self.pending)))
        if not self.residents:
            self.idle_since_s = now
        return resident

    def record_outcome(self, failed: bool) -> int:
        """Counts the end of an attempt in the error share. Returns the number of the outcome."""
        self.error_share += SEEN_WEIGHT * (float(failed) - self.error_share)
        self.outcomes += 1
        return self.outcomes

    def take_back_failure(self, outcome: int) -> None:
        """Removes a failure from the error share, as if the attempt had succeeded. `outcome`: its
        number."""
        weight = SEEN_WEIGHT * (1.0 - SEEN_WEIGHT) ** max(0, self.outcomes - outcome)
        self.error_share = max(0.0, self.error_share - weight)

    def record_cached_tokens(self, resident: Resident, cached_tokens: int | None) -> None:
        """Compares the cached tokens of an answer with the expected ones; None is ignored."""
        if cached_tokens is None or resident.hit_tokens <= 0:
            return
        share = min(1.0, cached_tokens / resident.hit_tokens)
        self.cache_trust += SEEN_WEIGHT * (share - self.cache_trust)

    def record_report(self, report: EngineReport) -> None:
        """Records an engine's report. Load beyond the scheduler's own attempts is external load.

        An engine reports the start and the end of an attempt a step later than the scheduler knows
        them, so external load counts only once two successive reports show it.
        """
        if report.running is None or report.waiting is None:
            beyond = 0  # what other clients send is unknown
        else:
            own = self.sequences + self.more_inputs
            beyond = max(0, report.running + report.waiting - own)
        self.external_sequences = min(beyond, self._beyond)
        self._beyond = beyond
        self.report = report
        self.external_kv_tokens = self._external_kv_tokens(report)

    def _external_kv_tokens(self, report: EngineReport) -> int:
        """KV tokens of the external sequences.

        The count of own tokens is more exact than the engine's lagged gauge, so the difference
        counts as external only if external sequences run there.
        """
        if not self.external_sequences:
            return 0
        capacity = self.kv_capacity_tokens
        if capacity is None or report.kv_usage is None:
            # They are taken to hold as much as the own ones.
            return self.external_sequences * self.kv_tokens // max(1, self.sequences)
        return max(0, round(report.kv_usage * capacity) - self.kv_tokens)

    def record_preemptions(self, preemptions: int, now: float) -> None:
        """Records preemptions: the engine ran out of KV blocks, so a larger share of the cache is
        kept free for some time."""
        if preemptions > 0:
            raised = self.reserve_share(now) + PREEMPTION_RESERVE * min(preemptions, 10)
            self._reserve, self._reserve_at_s = min(MOST_RESERVE, raised), now
