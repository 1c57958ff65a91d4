"""A group of placements that step together, and the state that a reload carries over."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from scheduler.contract import EngineReport
from scheduler.engine_steps import EngineSteps
from scheduler.output_length import OutputLengths
from scheduler.placement.interference import Streams
from scheduler.placement.pooled_fit import PooledFit
from scheduler.placement.prediction_errors import PredictionErrors
from scheduler.placement.prefill_stalls import PrefillStalls
from scheduler.placement_state import Placement
from scheduler.step_time.expert_law import ExpertCounts
from scheduler.step_time.expert_loads import ExpertLoads
from scheduler.step_time.own_load import OwnCounts, OwnLoad, PromptsUnderway
from scheduler.step_time.prefill_periods import PrefillPeriods
from scheduler.step_time.single_steps import windows_of
from scheduler.step_time.step_fit import StepFit
from scheduler.step_time.step_model import QWEN3_30B_H100, StepModel
from scheduler.step_time.step_windows import SETTLE_S, WindowMeter, prefill_window
from scheduler.step_time.transfer_fit import transfer_window

MOST_STEPS_KEPT = 4096
STEPS_STALE_S = 10.0
"""Time after the last single steps from which the counters are fitted again."""


class TokensSeen(NamedTuple):
    """What `Group.stalls` has seen of own tokens: totals as in `OwnCounts`, and T(B) over the
    tokens per step when they were read; 0 on an idle group."""

    gaps: int = 0
    gaps_s: float = 0.0
    token_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class Group:
    """Placements that step together, with the fit of their step time and their streams."""

    name: str
    fit: StepFit
    model: StepModel
    members: list[int] = field(default_factory=list)
    streams: Streams = field(default_factory=Streams)
    meter: WindowMeter = field(default_factory=WindowMeter)
    own: OwnLoad = field(default_factory=OwnLoad)
    periods: dict[str, PrefillPeriods] = field(default_factory=dict)
    """Periods of own prefills, by the name of the placement."""
    stalls: PrefillStalls = field(default_factory=PrefillStalls)
    stretch: float = 1.0
    """Recent time between two outputs of a sequence over T(B), groups alike considered."""
    tokens_seen: TokensSeen = field(default_factory=TokensSeen)
    step_ended_s: float = -math.inf
    """When a token told last that a step had ended."""
    applied_version: int = 0
    """Version of the fit that `model` came from."""
    experts: ExpertCounts | None = None
    """Distinct experts that the engine told; None: it never told any."""
    expert_loads: ExpertLoads = field(default_factory=ExpertLoads)
    steps_at_s: float = -math.inf
    """When the engine last told single steps that the fit could use."""
    last_report: EngineReport | None = None
    """The newest one that tells the prefills of a disaggregated replica."""
    batch: int = 0
    kv_paced_tokens: int = 0
    steps_s: list[float] = field(default_factory=list)
    """Cache of `step_s`, indexed by batch size."""
    experts_s: list[float] = field(default_factory=list)
    """Cache of `untouched_s`, indexed by batch size."""

    def step_s(self, batch: int) -> float:
        """T(B) without the term of the KV cache."""
        if batch > MOST_STEPS_KEPT:
            return self.model.decode_step_s(batch, 0)
        steps_s = self.steps_s
        while len(steps_s) <= batch:
            steps_s.append(self.model.decode_step_s(len(steps_s), 0))
        return steps_s[batch]

    def untouched_s(self, batch: int) -> float:
        """Seconds to read the experts that a full chunk touches and the batch does not."""
        model = self.model
        if batch > MOST_STEPS_KEPT:
            return model.prompt_experts_s(batch, model.chunk_tokens)
        experts_s = self.experts_s
        while len(experts_s) <= batch:
            experts_s.append(model.prompt_experts_s(len(experts_s), model.chunk_tokens))
        return experts_s[batch]

    def set_model(self, model: StepModel) -> None:
        """Replaces the model that decisions use."""
        self.model, self.applied_version = model, self.fit.version
        self.steps_s.clear()
        self.experts_s.clear()

    def observe(
        self,
        report: EngineReport,
        *,
        sequences: int,
        underway: PromptsUnderway,
        pool: PrefillStalls,
        now: float,
    ) -> bool:
        """Feeds a report of all members to the fit; returns whether the model has changed.
        `sequences`: own ones; `underway`: what is computed of pending prompts."""
        last = self.last_report
        own = self.own.at(sequences=sequences, kv_tokens=self.kv_paced_tokens, underway=underway)
        window = self.meter.take(report, own)
        self._observe_stalls(own, pool, now)
        # Single steps say more than the counters of the same time.
        if window is not None and not self.has_steps(now):
            self.fit.observe(window)
        if report.prefills is not None:
            if last is not None and (prefills := prefill_window(last, report)) is not None:
                self.fit.observe_steps((prefills,))
            if last is not None and (transfers := transfer_window(last, report)) is not None:
                self.fit.observe_transfers(transfers)
            self.last_report = report
        return self.fit.version != self.applied_version

    def _observe_stalls(self, own: OwnCounts, pool: PrefillStalls, now: float) -> None:
        """Own answers tell, because windows leave out times in which hardly a token came."""
        token_s = self.full_step_s(self.batch) / self.model.tokens_per_step
        seen, self.tokens_seen = self.tokens_seen, TokensSeen(own.gaps, own.gaps_s, token_s)
        gaps, gaps_s = own.gaps - seen.gaps, own.gaps_s - seen.gaps_s
        if seen.token_s and token_s:
            token_s = (seen.token_s + token_s) / 2.0
        decode_s = gaps * (token_s or seen.token_s)
        for stalls in (self.stalls, pool):
            stalls.observe(decode_s, max(decode_s, gaps_s), now)
        self.stretch = self.stalls.stretch(pool)

    def prefills(self, placement: str) -> PrefillPeriods:
        """The periods of a placement."""
        return self.periods.setdefault(placement, PrefillPeriods())

    def observe_steps(self, event: EngineSteps, kv_capacity_tokens: int, now: float) -> bool:
        """Feeds single steps to the fit; returns whether it could use any. `kv_capacity_tokens`:
        of the group."""
        if event.restarted:
            self.meter.disturb(event.at_s + SETTLE_S, "engine started")
        from_s = self.meter.disturbed_until_s
        windows = windows_of(event, kv_capacity_tokens=kv_capacity_tokens, from_s=from_s)
        if windows:
            self.steps_at_s = now
            self.fit.observe_steps(windows)
        return bool(windows)

    def observe_experts(self, event: EngineSteps) -> bool:
        """Learns which experts the steps used; returns whether the fit has another law of them."""
        if event.restarted:
            self.expert_loads = ExpertLoads()  # experts may lie elsewhere now
        told = event.experts
        if told is None:
            return False
        self.expert_loads.observe(told.steps)
        known = self.experts
        of_model = (told.experts, told.experts_per_token)
        if known is None or (known.experts, known.experts_per_token) != of_model:
            known = self.experts = ExpertCounts(*of_model)
        if not known.observe(told.steps) or known.law is None:
            return False
        self.fit.use_law(known.law)
        return True

    def has_steps(self, now: float) -> bool:
        """Whether the engine tells its single steps at present."""
        return now - self.steps_at_s <= STEPS_STALE_S

    def full_step_s(self, batch: int) -> float:
        """T(B) with the resident KV tokens."""
        if not batch:
            return 0.0
        model = self.model
        return self.step_s(batch) + model.kv_token_s * self.kv_paced_tokens / model.ranks


@dataclass(frozen=True, slots=True)
class CarriedOver:
    """State that a reload carries from the old fleet of a model to the new one.

    `groups`: by name, without members; `pooled`: the mean fits of identical groups,
    by their prior.
    """

    groups: Mapping[str, Group] = field(default_factory=dict)
    lengths: OutputLengths = field(default_factory=OutputLengths)
    pooled: Mapping[StepModel, PooledFit] = field(default_factory=dict)
    errors: PredictionErrors = field(default_factory=PredictionErrors)


LEAST_CHUNK_S = 1e-6
WHOLE_S = 1e9
"""Longer than any prefill."""


def chunk_s(facts: Placement, model: StepModel) -> float:
    """Time of the part of a prefill that shares one step with decodes. In a disaggregated replica
    it shares none, and the first step that decodes follows it."""
    if facts.prefill_price_share is not None:
        return WHOLE_S
    return max(LEAST_CHUNK_S, model.prefill_time_s(model.chunk_tokens, model.chunk_tokens, 1.0))


def stall_weight(facts: Placement) -> float | None:
    """Price of a second of prefill over that of a second of decode, where nodes of their own do
    each; None: a prefill stalls the decodes of its group."""
    share = facts.prefill_price_share
    return None if share is None else share / (1.0 - share)


def prior_of(facts: Placement) -> StepModel:
    """The step model of a placement before anything is fitted."""
    return facts.step_model or QWEN3_30B_H100
