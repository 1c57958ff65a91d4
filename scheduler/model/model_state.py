"""State of one model: its self-hosted placements, its remotes, its queue, and what was learnt.

`core.py` owns the requests, `model_scheduler.py` decides, `transitions.py` starts and ends
attempts. A model state never holds a request that is not queued or on one of its placements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from scheduler.blame.likeness import NewestByLike
from scheduler.contract import (
    EngineReport,
    PlacementKind,
    Request,
    ServingChanged,
    SloClass,
)
from scheduler.decisions import Decisions
from scheduler.engine_steps import EngineSteps
from scheduler.model.exclusions import activation_s, exclusions, may_differ
from scheduler.model.urgent_pace import UrgentPace
from scheduler.output_length import Floats
from scheduler.overflow.remotes import Remotes
from scheduler.overflow.saturation import Saturation, WorkRate
from scheduler.overflow.turned_away import TurnedAway
from scheduler.placement.carry_over import carry_over
from scheduler.placement.checks import await_prefills
from scheduler.placement.placement import choose
from scheduler.placement.quotes import Block, PlacementQuery, Quote
from scheduler.placement.quoting import quote_fleet
from scheduler.placement.self_hosted import SelfHostedFleet
from scheduler.placement_admission import PlacementAdmission
from scheduler.placement_state import PlacementState
from scheduler.policy import Policy
from scheduler.prefix.engine_caches import EngineCaches
from scheduler.prefix.prefix_index import PrefixIndex
from scheduler.prefix.token_blocks import CacheEvents, CacheReset
from scheduler.queue.model_queue import ModelQueue, QueueLimits
from scheduler.queue.queued import Queued
from scheduler.resident import Resident
from scheduler.tracked_request import TrackedRequest

PATIENCE = 3.0
"""The promised time to first token is at least this many times the request's own prefill. A shorter
promise to a long prompt could not be kept, and the request would never be tried."""
PROMISE_WEIGHT = 0.05
"""Weight of a new promise in the running mean against which saturation is measured."""
PREFILL_STEP_TOKENS = 8192
"""KV tokens that a request which generates nothing needs at most: its inputs are computed step by
step, and each gives its blocks back at once. vLLM's default of `--max-num-batched-tokens`."""
URGENT = (SloClass.INTERACTIVE, SloClass.STANDARD)
"""Classes that count for saturation. The batch class is expected to wait."""
_EVICTION_HELPS = (Block.SLOTS, Block.KV, Block.TPOT)
# numpy compares plain integers faster than enum members.
_INTERFERENCE, _HELD, _KV = map(np.int8, (Block.INTERFERENCE, Block.HELD, Block.KV))


class PlacementResult(NamedTuple):
    """The outcome of one attempt to place a request on a self-hosted placement.

    `chosen`: index of the placement; None: no placement can take the request now. `quote`: figures
    of all placements, valid until the next quote. `interfering_prefill_s`: shortest prefill on the
    placements that are blocked only by interference with running streams; None: none.
    `time_may_help`: a later attempt may succeed without any event before it.
    """

    chosen: int | None
    quote: Quote
    interfering_prefill_s: float | None = None
    time_may_help: bool = False


class ModelState:
    """State of one model. `states`: all its placements, self-hosted and remote."""

    def __init__(
        self,
        states: Sequence[PlacementState],
        admission: PlacementAdmission,
        policy: Policy,
        limits: QueueLimits,
        decisions: Decisions,
    ) -> None:
        self.policy = policy
        self.admission = admission
        self.decisions = decisions
        self.fleet = SelfHostedFleet(
            (s for s in states if s.facts.kind is PlacementKind.SELF_HOSTED), policy
        )
        self.remotes = Remotes(
            [s for s in states if s.facts.kind is PlacementKind.REMOTE], admission
        )
        self.queue = ModelQueue(limits, policy)
        self.prefixes = PrefixIndex(len(states))
        """Indexed by self-hosted placements first, then remotes."""
        self.engine_caches = EngineCaches(len(self.fleet))
        self.rate = WorkRate()
        self.saturation = Saturation()
        self.turned_away = TurnedAway()
        self.urgent_pace = UrgentPace()
        self.batch: dict[str, int] = {}
        """Placement index of each batch-class request that runs on a self-hosted placement."""
        self.suspect: set[int] = set()
        """Indices of self-hosted placements whose circuit breakers may not all be closed."""
        self.answered, self.unanswered = NewestByLike(), NewestByLike()
        """Newest answers and failures of placements, for the model as a whole."""
        self.attempts = 1
        """Most attempts of a request."""
        self._rotation = -1
        self._no_hits: Floats = np.zeros(len(states))
        self._no_hits.flags.writeable = False
        self._promised_s: float | None = None

    def reconfigure(self, states: Sequence[PlacementState], now: float) -> None:
        """Replaces the placements. A placement that stays is the same object and keeps its learnt
        state. The queue and the fairness counters are kept."""
        before = {id(state): i for i, state in enumerate(self.states)}
        own_before, suspect = self.fleet.states, self.suspect
        own = [s for s in states if s.facts.kind is PlacementKind.SELF_HOSTED]
        remotes = [s for s in states if s.facts.kind is PlacementKind.REMOTE]
        self.fleet = carry_over(self.fleet, own, self.policy, now)
        self.remotes = self.remotes.carried_over(remotes)
        previous = [before.get(id(state)) for state in self.states]
        self.prefixes.reindex(previous)
        self.engine_caches.reindex(previous[: len(own)])
        index_of = self.fleet.index_of
        self.batch = {
            request_id: index
            for request_id, was in self.batch.items()
            if (index := index_of(own_before[was])) is not None
        }
        moved = {index_of(own_before[was]) for was in suspect}
        self.suspect = {index for index in moved if index is not None}
        self._no_hits = np.zeros(len(previous))
        self._no_hits.flags.writeable = False

    @property
    def states(self) -> list[PlacementState]:
        """All placements of the model."""
        return [*self.fleet.states, *self.remotes.states]

    def state_of(self, name: str) -> PlacementState | None:
        """The placement of this name; None if the model has none."""
        if (index := self.fleet.index.get(name)) is not None:
            return self.fleet.states[index]
        index = self.remotes.index.get(name)
        return None if index is None else self.remotes.states[index]

    def set_expectations(self, tracked: TrackedRequest, *, count: bool = True) -> None:
        """Sets the promised time to first token of a new request, and its expected resources.
        `count`: include the promise in the mean against which saturation is measured."""
        request = tracked.request
        if count:
            self.queue.arrived(request)
        solo_s = self.fleet.solo_prefill_s(request.prompt_tokens)
        tracked.ttft_s = max(request.slo.ttft_s, PATIENCE * solo_s)
        lengths, longest = self.fleet.lengths, request.max_output_tokens
        mean, most = lengths.expected(request.key_id, longest) if longest else (0.0, 0)
        tracked.output_tokens = mean * request.choices
        tracked.reserve_tokens = request.prompt_tokens + math.ceil(tracked.output_tokens)
        if not longest:
            tracked.reserve_tokens = min(request.prompt_tokens, PREFILL_STEP_TOKENS)
        tracked.spread_tokens = math.sqrt(request.choices) * max(0.0, most - mean)
        if count and request.slo.slo_class in URGENT:
            mean_s = tracked.ttft_s if self._promised_s is None else self._promised_s
            self._promised_s = mean_s + PROMISE_WEIGHT * (tracked.ttft_s - mean_s)

    def advance(self, now: float) -> None:
        """Advances all time-dependent state to `now`."""
        waits = len(self.queue) > 0
        self.rate.advance(now, waiting=waits and self.queue.work_s() > 0)
        self.fleet.forget_stale(now)
        self.fleet.extend_overdue_prefills(now)
        for index in tuple(self.suspect):
            if self.admission.closed(self.fleet.states[index].facts.name, now):
                self.suspect.discard(index)
        if self._promised_s is not None:
            wait_s = self.queue.work_s(URGENT) / self._rate_per_s() if waits else 0.0
            self.saturation.observe(wait_s / self._promised_s, now)

    def observe_report(self, report: EngineReport, now: float) -> bool:
        """Records an engine report. Returns whether it shows more room than was known."""
        fleet, index = self.fleet, self.fleet.index[report.placement]
        before = fleet.sequences[index], fleet.kv_free_tokens[index]
        last = fleet.states[index].report
        if fleet.take_report(index, report, now):
            self.prefixes.forget(index)
            if last is not None:
                self.engine_caches.engine_restarted(index, since_s=last.at_s)
        return bool(fleet.sequences[index] < before[0] or fleet.kv_free_tokens[index] > before[1])

    def observe_steps(self, steps: EngineSteps, now: float) -> None:
        """Records the single steps of an engine."""
        self.fleet.take_steps(self.fleet.index[steps.placement], steps, now)

    def observe_cache_events(self, events: CacheEvents, now: float) -> None:
        """Records the cache events of an engine."""
        index = self.fleet.index[events.placement]
        self.engine_caches.apply_events(index, events, now)
        if any(isinstance(change, CacheReset) and change.emptied for change in events.changes):
            self.prefixes.forget(index)

    def apply_prices(self) -> None:
        """Applies changed prices of placements."""
        self.fleet.take_prices()
        self.remotes.refresh_facts()

    def set_serving(self, event: ServingChanged, now: float) -> None:
        """Records that a placement came into service or left it."""
        index = self.fleet.index.get(event.placement)
        if index is None:
            state = self.remotes.states[self.remotes.index[event.placement]]
            state.serving, state.reason = event.serving, event.reason
        else:
            self.fleet.set_serving(index, event, now)

    @property
    def holds_late(self) -> bool:
        """Whether a request that has missed its time to first token must wait although it could
        start. While the model is saturated and busy, room is kept for requests still in time."""
        return self.saturation.marked and bool(np.count_nonzero(self.fleet.warm))

    def drain_s(self) -> float:
        """Predicted seconds to drain the queue."""
        return self.queue.work_s() / self._rate_per_s()

    def wait_s(self, request: Request, prefill_s: float) -> float:
        """Predicted waiting seconds of a request that joins the queue now or is in it."""
        return self.queue.ahead_s(request, prefill_s) / self._rate_per_s()

    def latest_wait_s(self, tracked: TrackedRequest) -> float:
        """Latest predicted first token, monotonic seconds, with which a request still waits for
        self-hosted placements."""
        return tracked.request.arrival_s + self.saturation.wait_share * tracked.ttft_s

    def margin_s(self, tracked: TrackedRequest) -> float:
        """Part of the promised time to first token that is kept for errors of the prediction."""
        return self.fleet.errors.margin_s(tracked.ttft_s, self.policy.least_margin)

    def work_s(self, tracked: TrackedRequest, prefill_s: float) -> float:
        """Work of the request, in seconds of a full group."""
        return prefill_s + tracked.output_tokens * self.fleet.full_token_s

    def hit_tokens(self, request: Request) -> Floats:
        """Expected cached prompt tokens at each placement, remotes last. Shape: (placements,)."""
        if not request.prefix_blocks:
            return self._no_hits
        blocks = self.prefixes.hit_blocks(request.prefix_blocks)
        return np.minimum(blocks * request.prefix_block_tokens, max(0, request.prompt_tokens - 1))

    def self_hosted_hit_tokens(self, request: Request) -> Floats:
        """Expected cached prompt tokens at each self-hosted placement. Shape: (self-hosted
        placements,). Exact from cache events if the prompt is given as token ids; otherwise
        estimated from earlier starts."""
        fleet = self.fleet
        if not (request.token_blocks or self.prefixes.is_held(request.prefix_blocks)):
            return fleet.no_hits
        expected = self.hit_tokens(request)[: len(fleet)] * fleet.cache_trust
        if request.token_blocks:
            reported = self.engine_caches.hit_tokens(request.token_blocks)
            expected = np.where(self.engine_caches.known, reported, np.maximum(reported, expected))
        return expected if np.count_nonzero(expected) else fleet.no_hits

    def query(self, tracked: TrackedRequest, now: float, *, late: bool = False) -> PlacementQuery:
        """Builds the query of a request for `try_place` and `figures`."""
        request = tracked.request
        return PlacementQuery(
            request=request,
            ttft_s=tracked.ttft_s,
            margin_s=self.margin_s(tracked),
            excluded=exclusions(
                self.fleet, self.remotes, self.admission, self.suspect, tracked, now
            ),
            hit_tokens=self.self_hosted_hit_tokens(request),
            output_tokens=tracked.output_tokens,
            reserve_tokens=tracked.reserve_tokens,
            spread_tokens=tracked.spread_tokens,
            late=late,
            most_step_s=self.urgent_pace.most_step_s(request, self.policy, now),
            activation_s=activation_s(self.fleet, request.model, now),
        )

    def try_place(self, query: PlacementQuery, now: float) -> PlacementResult:
        """Searches a self-hosted placement for the request. Ties rotate over the placements."""
        self._rotation += 1
        return self._choose(query, self._rotation, now)

    def retry_place(self, query: PlacementQuery, now: float) -> PlacementResult | None:
        """The same for a request that waits, of which no figures are needed if it goes on to wait;
        None: pending prompts keep it waiting."""
        if await_prefills(self.fleet, query, self.policy, now):
            return None
        return self.try_place(query, now)

    def preview_place(self, query: PlacementQuery, now: float) -> PlacementResult:
        """Returns the result of `try_place` without changing state that a later decision reads."""
        fleet = self.fleet
        lines, made_at_s = fleet.interference_lines.copy(), fleet.curve_at_s.copy()
        plans = fleet.kv_plans.kept()
        result = self._choose(query, self._rotation + 1, now)
        fleet.interference_lines[:], fleet.curve_at_s[:] = lines, made_at_s
        fleet.kv_plans.restore(plans)
        return result._replace(quote=result.quote.kept())

    def _choose(self, query: PlacementQuery, rotation: int, now: float) -> PlacementResult:
        index, quote = choose(self.fleet, query, self.policy, now, rotation)
        if index is not None:
            return PlacementResult(index, quote)
        interfering = quote.blocked == _INTERFERENCE
        if np.count_nonzero(interfering):
            return PlacementResult(None, quote, float(quote.prefill_s[interfering].min()), True)
        if np.count_nonzero(quote.blocked == _HELD):
            return PlacementResult(None, quote, None, True)
        full = (quote.blocked == _KV).nonzero()[0]
        may_fit = len(self.fleet.kv_plans.may_fit(full, query)) > 0
        return PlacementResult(None, quote, None, may_fit)

    def figures(self, query: PlacementQuery, now: float) -> Quote:
        """Returns the figures of every self-hosted placement, without a choice."""
        return quote_fleet(self.fleet, query, self.policy, now)

    def queued(
        self,
        tracked: TrackedRequest,
        quote: Quote | None,
        last_start_s: float,
        now: float,
        server_start_s: float | None = None,
    ) -> Queued:
        """Builds the queue entry of a request. `quote`: None if only remotes can take the request,
        or if it waits for a server that starts within `server_start_s`."""
        request = tracked.request
        prefill_s, service_s = (0.0, 0.0) if quote is None else quote.best_s()
        margin_s = 0.0 if quote is None else self.margin_s(tracked)
        late_s = request.arrival_s + tracked.ttft_s - margin_s - service_s
        spill_s = self.remotes.spill_s(tracked, now)
        return Queued(
            request=request,
            spill_s=None if spill_s is None else max(now, min(spill_s, late_s)),
            last_call_s=late_s - self.policy.last_call_share * tracked.ttft_s,
            late_s=late_s,
            expires_s=min(now + (server_start_s or request.slo.max_queue_s), last_start_s),
            prefill_s=prefill_s,
            service_s=service_s,
            work_s=self.work_s(tracked, prefill_s),
            margin_s=margin_s,
            late=now >= late_s,
            self_hosted=quote is not None,
            may_differ=may_differ(self.fleet, tracked),
        )

    def evictable(self, quote: Quote, allowed: Callable[[str], bool]) -> Resident | None:
        """Returns the batch-class request to evict for a request of a higher class; None: none.

        Candidates run on placements that lack a slot, KV blocks or batch size, and have sent
        nothing to their client. The candidate with the fewest output tokens is chosen. Only one
        eviction is in progress at a time.
        """
        best: Resident | None = None
        for request_id, index in self.batch.items():
            resident = self.fleet.states[index].residents[request_id]
            if resident.evicting:
                return None
            if (
                quote.blocked[index] in _EVICTION_HELPS
                and (resident.output_tokens == 0 or resident.request.whole_answer)
                and (best is None or resident.output_tokens < best.output_tokens)
                and allowed(request_id)
            ):
                best = resident
        return best

    def service_nano_usd(self, index: int, prefill_s: float, output_tokens: float) -> float:
        """Service for the fairness counters in nano-USD: seconds of a full group at its rate."""
        rate = self.fleet.nano_usd_per_s.item(index)
        return rate * (prefill_s + output_tokens * self.fleet.full_token_s)

    def record_prefix(self, index: int, state: PlacementState, request: Request) -> None:
        """Records that the prompt is computed on the placement with this index, remotes last."""
        if request.prefix_blocks:
            capacity = state.kv_capacity_tokens
            held = self.engine_caches.held_tokens(index)
            if held is not None:  # blocks that the engine has evicted no longer count
                held += state.kv_tokens
                capacity = held if capacity is None else min(capacity, held)
            blocks = None if capacity is None else capacity // request.prefix_block_tokens
            self.prefixes.add(index, request.prefix_blocks, blocks)

    def _rate_per_s(self) -> float:
        return self.rate.per_s(self.fleet.serving_count)
