"""The self-hosted placements of one model as arrays with one element per placement.

A quote reads these arrays in one vectorised pass. Data-parallel ranks of a group step together, so
figures of the group (batch, paced KV, stall of pending prefills, interference curve) are repeated
at each rank, and a quote needs no notion of groups. `PlacementState` holds the truth: `sync` copies
it after every change, except that `progress` updates the KV figures directly.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from scheduler.contract import EngineReport, Objective, ServingChanged
from scheduler.engine_steps import EngineSteps
from scheduler.output_length import Floats
from scheduler.placement import learning
from scheduler.placement.checks import checks_for
from scheduler.placement.decision_model import full_token_s, priced
from scheduler.placement.groups import CarriedOver, Group, chunk_s, prior_of, stall_weight
from scheduler.placement.interference import STALL_POINTS, write_lines
from scheduler.placement.kv_plan import KvPlans, kv_limit_tokens
from scheduler.placement.objectives import OBJECTIVE_RULES
from scheduler.placement.pooled_fit import PooledFit
from scheduler.placement.prefill_phases import prefill_phases
from scheduler.placement.quotes import QuoteBuffers
from scheduler.placement_state import REPORT_STALE_S, PlacementState
from scheduler.policy import Policy
from scheduler.resident import Resident
from scheduler.step_time.step_fit import StepFit
from scheduler.step_time.step_model import StepModel
from scheduler.step_time.step_models import StepModels
from scheduler.step_time.step_windows import has_restarted, new_preemptions

CURVE_AGE_S = 0.1
"""An interference curve older than this is refreshed before it decides."""
_STALE_MARGIN_S = 1e-3
"""Added to the time at which a report becomes stale, because sums of times are rounded."""
NANO_USD_PER_S = 1e9
"""Rate used for all groups if one price is unknown: marginal costs are then compared in seconds."""


class SelfHostedFleet:
    """Arrays of shape (placements,); interference curves have (placements, 2, STALL_POINTS)."""

    def __init__(
        self,
        states: Iterable[PlacementState],
        policy: Policy,
        carried: CarriedOver | None = None,
        now: float = 0.0,
    ) -> None:
        carried = carried or CarriedOver()
        self.states = list(states)
        self.model = self.states[0].facts.model if self.states else ""
        self.lengths = carried.lengths
        self.errors = carried.errors
        self.policy = policy
        count = len(self.states)
        by_group = dict(carried.groups)
        self.groups: list[Group] = []
        """The group of each placement."""
        self.index: dict[str, int] = {}
        models: list[StepModel] = []
        for i, state in enumerate(self.states):
            facts = state.facts
            group = by_group.get(facts.group_name)
            if group is None:
                prior = prior_of(facts)
                model = priced(prior, policy)
                group = Group(name=facts.group_name, fit=StepFit(prior), model=model)
                by_group[facts.group_name] = group
            group.members.append(i)
            models.append(group.model)
            self.groups.append(group)
            self.index[facts.name] = i
        self.grouped = len(by_group) < count
        self.pooled: dict[StepModel, PooledFit] = {
            group.fit.prior: carried.pooled.get(group.fit.prior, PooledFit())
            for group in self.groups
        }
        """Pooled fits of identical groups, by their prior."""
        self.models = StepModels(models)
        transfers = [model.transfer.row for model in models]
        self.transfer_s: Floats = np.array(transfers).reshape(-1, 2).T
        """Of a prompt's KV cache: constant, and by prompt token; shape (2, placements)."""
        self.take_prices()
        self.serving, self.serving_count = np.zeros(count, dtype=np.bool_), 0
        self.sequences = np.zeros(count, dtype=np.int64)
        self.batch: Floats = np.zeros(count)
        self.warm = np.zeros(count, dtype=np.bool_)
        """Whether the group runs any sequence."""
        self.idle_since_s: Floats = np.full(count, -np.inf)
        self.ranks = np.array([len(g.members) for g in self.groups], dtype=np.float64)
        self.kv_tokens: Floats = np.zeros(count)
        """Resident KV tokens of the rank, external load included."""
        self.kv_paced_tokens: Floats = np.zeros(count)
        """KV tokens of the fullest rank times the ranks, which set the pace of the group; kept only
        where a group has several ranks."""
        self.kv_free_tokens: Floats = np.full(count, np.inf)
        self.slot_room: Floats = np.full(count, np.inf)
        self.kv_variance: Floats = np.zeros(count)
        self.kv_room_tokens: Floats = np.full(count, np.inf)
        """Free KV tokens; infinite on an idle placement, because vLLM runs an oversized request
        alone. The same holds for `slot_room`."""
        self.context_tokens: Floats = np.full(count, np.inf)
        self.kv_plans = KvPlans(self.states, self.kv_tokens, self.lengths, policy.kv_sigmas)
        self.prefill_end_s: Floats = np.zeros(count)
        self.first_token_due_s: Floats = np.full(count, np.inf)
        """When the first pending prefill should yield its token; infinite without one."""
        self.phase_s: Floats = np.full((4, count), -np.inf)
        """Of pending prefills, see the first four fields of `PrefillPhases`."""
        self.phase_s[2:] = 0.0
        self.phase_rows: tuple[Floats, ...] = tuple(self.phase_s)
        self.half_step_s: Floats = np.zeros(count)
        """What is left of the step that runs, on average; 0 on an idle group."""
        self.stretch: Floats = np.ones(count)
        """Recent time per token of the group over T(B): the share that prefills take."""
        self.stall_end_s: Floats = np.zeros(count)
        """The latest `prefill_end_s` of the group's ranks; kept only where a group has several."""
        self.chunk_s: Floats = np.array(
            [chunk_s(s.facts, g.model) for s, g in zip(self.states, self.groups, strict=True)]
        )
        self.step_s: Floats = np.zeros(count)
        """T(B) of the group when its batch last changed."""
        self.next_step_s: Floats = np.zeros(count)
        """T(B + 1) without the term of the KV cache."""
        self.untouched_s: Floats = np.zeros(count)
        """Seconds to read the experts that a chunk touches beside those of B + 1 sequences; 0 where
        prompts wait that pay them in the same step."""
        objective = self.states[0].facts.objective if self.states else Objective.LATENCY
        self.objective = OBJECTIVE_RULES[objective]
        self.checks = checks_for(self.objective, late_binding=policy.late_binding)
        self.interference_lines: Floats = np.zeros((count, 2, STALL_POINTS))
        """Interference curves: rise and start of the line from each point to the next, see
        `write_lines`."""
        self.line_offsets = np.arange(float(count)) * (2 * STALL_POINTS)
        self.line_table: Floats = self.interference_lines.ravel()
        """The same memory as one row: a rise, and STALL_POINTS later the start of its line."""
        self.all_free = np.zeros(count, dtype=np.int8)
        self.no_hits: Floats = np.zeros(count)
        self.all_free.flags.writeable = self.no_hits.flags.writeable = False
        self.buffers = QuoteBuffers(count, self.all_free)
        self.curve_at_s: Floats = np.full(count, -1.0)
        self.cache_trust: Floats = np.ones(count)
        token_s = [full_token_s(group.model) for group in self.groups]
        self.full_token_s = float(np.mean(token_s or 0))
        """Seconds per output token of a group at its full batch: the unit of queued work."""
        self._with_external = {i for i in range(count) if self.states[i].external_sequences}
        for i in range(count):
            self.sync(i, now)

    def fitted(self, placement: str) -> StepModel:
        """The fitted step model of a placement's group."""
        return self.groups[self.index[placement]].fit.model

    def take_prices(self) -> None:
        """Reads the prices of the groups; if one is unknown, all count as equal."""
        self.facts = tuple(state.facts for state in self.states)
        prices = [state.facts.nano_usd_per_s for state in self.states]
        known = [price for price in prices if price]
        whole = len(known) == len(prices)
        # A new array: records of decisions hold the old one.
        rates = known if whole else [NANO_USD_PER_S] * len(prices)
        self.nano_usd_per_s: Floats = np.array(rates, dtype=np.float64)
        weights = [stall_weight(facts) for facts in self.facts]
        self.stall_weights: Floats | None = None
        """Of groups whose prefills stall no decode, see `stall_weight`; NaN for others. None: the
        prefills of all groups do."""
        if any(weight is not None for weight in weights):
            self.stall_weights = np.array(weights, dtype=np.float64)
            decode_shares = 1.0 / (1.0 + np.nan_to_num(self.stall_weights))
            self.nano_usd_per_s = self.nano_usd_per_s * decode_shares

    def __len__(self) -> int:
        return len(self.states)

    def index_of(self, state: PlacementState) -> int | None:
        """Index of a placement; None: it is a remote, or a reload has removed or replaced it."""
        index = self.index.get(state.facts.name)
        return index if index is not None and self.states[index] is state else None

    def add(self, index: int, resident: Resident, now: float) -> None:
        """Adds an attempt to a placement."""
        request = resident.request
        learning.prompt_sent(self, index, resident.prefill_s, now)
        state = self.states[index]
        if state.pending and now < self.phase_s.item(0, index):
            state.computing += 1  # the step that computes the others has not begun
        state.add(resident, now)
        self.kv_plans.outdate(index)
        self.groups[index].streams.add(
            request.request_id,
            limit_s=request.slo.tpot_s,
            most_tokens=request.max_output_tokens,
            row=self.lengths.row(request.key_id),
        )
        # It has more to lose now.
        for member in self.groups[index].members:
            self.curve_at_s[member] = -1.0
        self.sync(index, now)

    def progress(self, index: int, request_id: str, output_tokens: int, now: float) -> bool:
        """Records the tokens of an attempt so far; returns whether they include the first token."""
        state, group = self.states[index], self.groups[index]
        first, reserved = request_id in state.pending, state.kv_reserved_tokens
        news = state.progress(request_id, output_tokens, now)
        if not news:
            return False
        resident = state.residents[request_id]
        request = resident.request
        if first:
            group.own.first_token(
                sequences=request.choices,
                prompt_tokens=request.prompt_tokens,
                uncached_tokens=request.prompt_tokens - resident.hit_tokens,
            )
            learning.first_token(self, index, resident, now)
            in_time = now - request.arrival_s <= resident.promised_ttft_s
            group.streams.first_token(request_id, now, in_time=in_time)
        else:
            group.own.tokens(news, now - resident.seen_s, request.choices)
        resident.seen_s = now
        group.streams.progress(request_id, output_tokens / request.choices, now)
        if first or self.grouped:
            self.sync(index, now)
        else:
            self.kv_tokens[index] += news
            if state.kv_reserved_tokens != reserved:  # the answer is longer than predicted
                self.kv_free_tokens[index] -= state.kv_reserved_tokens - reserved
                self.kv_room_tokens[index] = self.kv_free_tokens[index]
            group.kv_paced_tokens += news
        return first

    def remove(self, index: int, request_id: str, now: float) -> Resident:
        """Removes an attempt from a placement."""
        group = self.groups[index]
        group.streams.remove(request_id)
        # The fewer remain, the more the curve was this one's: of the last one nothing is left.
        older_s = CURVE_AGE_S / (len(group.streams) or 0.5)
        for member in group.members:
            self.curve_at_s[member] -= older_s
        learning.attempt_removed(self, index, request_id, now)
        resident = self.states[index].remove(request_id, now)
        self.kv_plans.outdate(index)
        self.sync(index, now)
        return resident

    def take_report(self, index: int, report: EngineReport, now: float) -> bool:
        """Records an engine's report; returns whether the engine has restarted."""
        state = self.states[index]
        before = state.report
        anew = before is not None and has_restarted(before, report)
        state.record_report(report)
        if before is not None and not anew:
            state.record_preemptions(new_preemptions(before, report), now)
        if anew:
            state.adapters.restart()
        followed = self._with_external
        (followed.add if state.external_sequences else followed.discard)(index)
        learning.observe_reports(self, self.groups[index], now)
        self.sync(index, now)
        return anew

    def take_steps(self, index: int, event: EngineSteps, now: float) -> None:
        """Feeds the single steps of an engine to the fit of its group."""
        group = self.groups[index]
        capacities = [self.states[member].kv_capacity_tokens or 0 for member in group.members]
        other_law = group.observe_experts(event)
        if group.observe_steps(event, sum(capacities), now) or other_law:
            learning.apply_fit(self, group)
            for member in group.members:
                self.sync(member, now)

    def set_serving(self, index: int, event: ServingChanged, now: float) -> None:
        """Records that a placement entered or left service."""
        state = self.states[index]
        state.serving, state.reason = event.serving, event.reason
        if event.serving and not state.residents and state.idle_since_s is None:
            state.idle_since_s = now
        self.sync(index, now)

    def solo_prefill_s(self, prompt_tokens: int) -> float:
        """Prefill time of an uncached prompt on the first placement; 0 without placements."""
        if not self.groups:
            return 0.0
        return self.groups[0].model.prefill_time_s(prompt_tokens, prompt_tokens)

    @property
    def optimistic_s(self) -> float:
        """Least possible time to first token: one step of an idle group, with the prompt cached."""
        return self.groups[0].step_s(1) if self.groups else 0.0

    def forget_stale(self, now: float) -> None:
        """Drops external load that only a stale report shows."""
        if not self._with_external:
            return
        for index in tuple(self._with_external):
            if self.states[index].stale(now):
                self._with_external.discard(index)
                self.sync(index, now)

    def next_stale_s(self) -> float | None:
        """When external load will be dropped unless a new report comes; None: there is none."""
        reports = (self.states[index].report for index in self._with_external)
        stale_s = (r.at_s + REPORT_STALE_S + _STALE_MARGIN_S for r in reports if r is not None)
        return min(stale_s, default=None)

    def sync(self, index: int, now: float) -> None:
        """Copies the state of a placement and the shared figures of its group into the arrays."""
        state, group = self.states[index], self.groups[index]
        fresh = not state.stale(now)
        external_kv = state.external_kv_tokens if fresh else 0
        self.serving_count += state.serving - self.serving.item(index)
        self.serving[index] = state.serving
        self.idle_since_s[index] = -np.inf if state.idle_since_s is None else state.idle_since_s
        external = state.external_sequences if fresh else 0
        self.sequences[index] = sequences = state.sequences + external
        self.kv_tokens[index] = state.kv_tokens + external_kv
        limit_tokens = kv_limit_tokens(state, self.policy.kv_reserve, now)
        self.kv_plans.limit_tokens[index] = limit_tokens
        self.kv_free_tokens[index] = limit_tokens - state.kv_reserved_tokens - external_kv
        if (context := state.context_tokens) is not None:
            self.context_tokens[index] = context
        self.cache_trust[index] = state.cache_trust
        self.slot_room[index] = state.max_running - sequences if sequences else np.inf
        self.kv_room_tokens[index] = self.kv_free_tokens[index] if sequences else np.inf
        self.kv_variance[index] = state.kv_variance
        self.prefill_end_s[index] = state.prefill_end_s if state.pending else 0.0
        if len(group.members) == 1:
            group.batch, group.kv_paced_tokens = sequences, state.kv_tokens + external_kv
            self.batch[index], self.warm[index] = sequences, sequences > 0
            self.step_s[index] = step_s = group.full_step_s(sequences)
            self.half_step_s[index] = step_s / 2.0
            self.next_step_s[index] = group.step_s(sequences + 1)
            self.untouched_s[index] = group.untouched_s(sequences + 1)
            self._set_phases(index)
            if self.grouped:
                self.kv_paced_tokens[index] = group.kv_paced_tokens
                self.stall_end_s[index] = self.prefill_end_s[index]
            return
        members = group.members
        group.batch = int(self.sequences[members].sum())
        group.kv_paced_tokens = int(self.kv_tokens[members].max()) * len(members)
        self.batch[members] = group.batch
        self.warm[members] = group.batch > 0
        self.step_s[members] = group.full_step_s(group.batch)
        self.next_step_s[members] = group.step_s(group.batch + 1)
        self.untouched_s[members] = group.untouched_s(group.batch + 1)
        self.half_step_s[members] = self.step_s[members] / 2.0
        for member in members:
            self._set_phases(member)
        self.kv_paced_tokens[members] = group.kv_paced_tokens
        self.stall_end_s[members] = self.prefill_end_s[members].max()

    def extend_overdue_prefills(self, now: float) -> None:
        """Delays the predictions behind every prefill whose first token is overdue."""
        due_s = self.first_token_due_s
        while len(due_s) and due_s.item(index := int(due_s.argmin())) < now:
            self.states[index].extend_overdue_prefill(self.groups[index].model, now)
            self.sync(index, now)

    def _set_phases(self, index: int) -> None:
        state = self.states[index]
        if not state.pending and self.first_token_due_s.item(index) == np.inf:
            return  # none was pending before
        times_s = self.chunk_s.item(index), self.next_step_s.item(index)
        phases = prefill_phases(state, *times_s, self.groups[index].model.transfer)
        self.phase_s[:, index] = phases[:4]
        self.first_token_due_s[index] = phases.first_token_due_s
        if phases.waiting_s > 0.0:
            self.untouched_s[index] = 0.0

    def refresh_curve(self, index: int, now: float) -> None:
        """Refreshes the interference curve of the placement's group."""
        group = self.groups[index]
        starts_s: dict[str, float] = {}
        for member in group.members:
            state = self.states[member]
            end_s = max(0.0, state.prefill_end_s - now)
            for request_id, prefill_s in reversed(state.pending.items()):
                starts_s[request_id] = max(0.0, end_s)
                end_s -= prefill_s
        step_s = group.full_step_s(group.batch + 1) / group.model.tokens_per_step
        curve = group.streams.curve(starts_s, step_s, self.lengths, now)
        for member in group.members:
            write_lines(curve, self.interference_lines[member])
            self.curve_at_s[member] = now

    def releasable(self, index: int, now: float) -> bool:
        """Whether the placement's group has been empty for the pool's release delay."""
        members = [self.states[member] for member in self.groups[index].members]
        return self.objective.releases_idle and all(
            state.serving
            and not state.external(now)
            and state.idle_since_s is not None
            and now - state.idle_since_s >= state.facts.release_delay_s
            for state in members
        )
