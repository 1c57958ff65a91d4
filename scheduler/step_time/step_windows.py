"""Windows of about a second over which an engine's step time is measured, for `step_fit.py`.

The counters in two successive engine reports give the duration of the steps and the number of
sequences that shared them. They include the sequences of other clients, so foreign load cannot
mislead. If an engine has no such counters, the gateway's counts of its own streams replace them:
tokens and the time in which they came, but never single gaps, which coalescing and the lag of the
event loop distort.

A window with a known disturbance names it and is not fitted. Disturbances are the start of an
engine, preemptions, a pause in the reports, a lag of the event loop (own counts only), and those
that `disturb` announces.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from scheduler.contract import EngineReport
from scheduler.engine_steps import EngineCounts
from scheduler.step_time.own_load import OwnCounts, PromptsUnderway

Number = TypeVar("Number", int, float)

SHORTEST_S = 0.8
"""Shortest window; reports closer together are merged into one window."""
LONGEST_S = 10.0
"""Longest window that is fitted: in a longer one the batch changes too much."""
FEWEST_GAPS = 10
"""Fewest gaps between outputs that give a usable mean."""
SETTLE_S = 10.0
"""Time after an engine's start that is not fitted: its first steps compile and warm caches."""
IDLE_SHARE = 0.7
"""Without a count of steps, a window in which the mean batch was below this share of the running
sequences had idle time that cannot be distinguished from long steps."""


class WindowSource(enum.StrEnum):
    """Source of a window's counts."""

    STEPS = "steps"
    """Single steps that the engine told (`single_steps.py`)."""
    ENGINE = "engine"
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Measurements of a group between two reports.

    Attributes:
        start_s, end_s: times on the scheduler's clock.
        step_s: mean time between two outputs of a sequence, including prefills of other sequences.
        gaps: number of such times.
        batch: sequences that shared a step, foreign ones included.
        external_batch: number of foreign sequences among them.
        kv_tokens: resident KV of the group; with several ranks, the fullest rank's KV on each.
        prompts, prompt_tokens, uncached_tokens: totals of what was computed of prompts.
        tokens_per_step, draft_tokens: values per sequence, see `StepModel`; None: unknown.
        single_steps: number of steps that were told one by one; 0: the steps follow from the times.
        disturbance: reason not to fit the window; empty if it may be fitted.
    """

    start_s: float
    end_s: float
    source: WindowSource
    step_s: float
    gaps: int
    batch: float
    external_batch: float = 0.0
    kv_tokens: float = 0.0
    prompts: float = 0
    prompt_tokens: float = 0
    uncached_tokens: float = 0
    tokens_per_step: float | None = 1.0
    draft_tokens: float | None = 0.0
    single_steps: int = 0
    disturbance: str = ""

    @property
    def steps(self) -> float:
        """Number of steps of the group."""
        if self.single_steps:
            return float(self.single_steps)
        return (self.end_s - self.start_s) / self.step_s


class WindowMeter:
    """Turns the reports of one engine into windows."""

    def __init__(self) -> None:
        self._report: EngineReport | None = None
        self._own = OwnCounts()
        self._disturbed_until_s = 0.0
        self._disturbance = ""

    def disturb(self, until_s: float, reason: str) -> None:
        """Marks windows that start before `until_s` as disturbed, for example by a rebalance of
        experts or a lag of the event loop."""
        if until_s > self._disturbed_until_s:
            self._disturbed_until_s, self._disturbance = until_s, reason

    @property
    def disturbed_until_s(self) -> float:
        """End of the disturbance that was announced last."""
        return self._disturbed_until_s

    def take(self, report: EngineReport, own: OwnCounts) -> Window | None:
        """The window that ends with `report`; None if it is still too short, if nothing ran in it,
        or if nobody knows the KV tokens.

        `own`: the totals of the same time; they must come from the same `OwnLoad` each time.
        """
        last = self._report
        if last is None:
            self._keep(report, own)
            return None
        if has_restarted(last, report):
            self.disturb(report.at_s + SETTLE_S, "engine started")
            self._keep(report, own)
            return None
        if report.at_s - last.at_s < SHORTEST_S:
            return None
        before = self._own
        self._keep(report, own)
        kv_tokens = _kv_tokens(last, report, own, before)
        if kv_tokens is None:
            return None
        window = _engine_window(last, report, own, before) or _own_window(last, report, own, before)
        if window is None:
            return None
        if report.prefills is not None:  # they are computed by other engines, and stall no step
            window = replace(window, prompts=0, prompt_tokens=0, uncached_tokens=0)
        else:
            window = _shifted(window, before.underway, own.underway)
        return self._judged(replace(window, kv_tokens=kv_tokens), last, report)

    def _keep(self, report: EngineReport, own: OwnCounts) -> None:
        self._report, self._own = report, own

    def _judged(self, window: Window, last: EngineReport, report: EngineReport) -> Window:
        reason = ""
        if window.start_s < self._disturbed_until_s:
            reason = self._disturbance
        elif window.end_s - window.start_s > LONGEST_S:
            reason = "no reports for a while"
        elif new_preemptions(last, report) > 0:
            reason = "preemptions"
        return replace(window, disturbance=reason) if reason else window


def _shifted(window: Window, before: PromptsUnderway, now: PromptsUnderway) -> Window:
    """The window with the parts of prompts that were computed in it. A prompt is counted when it
    has ended, and a long one takes several windows."""
    if before == now:
        return window
    return replace(
        window,
        prompts=max(0.0, window.prompts + now.prompts - before.prompts),
        prompt_tokens=max(0.0, window.prompt_tokens + now.tokens - before.tokens),
        uncached_tokens=max(
            0.0, window.uncached_tokens + now.uncached_tokens - before.uncached_tokens
        ),
    )


def prefill_window(last: EngineReport, report: EngineReport) -> Window | None:
    """The prefills between two reports of a disaggregated replica, as steps without decodes; None:
    none ended, or their counts are unknown.

    Times of prefills that share a step are told for each, so that their sum is bounded by the time
    that passed.
    """
    before, now = last.prefills, report.prefills
    passed_s = report.at_s - last.at_s
    if before is None or now is None or not 0 < passed_s <= LONGEST_S:
        return None
    prompts, took_s = (
        _rise(before.first_tokens, now.first_tokens),
        _rise(before.prefill_s, now.prefill_s),
    )
    tokens = _rise(last.prompt_tokens_total, report.prompt_tokens_total)
    cached = _rise(before.cached_prompt_tokens, now.cached_prompt_tokens)
    if not prompts or not took_s or tokens is None or cached is None:
        return None
    if min(prompts, took_s, tokens - cached) <= 0 or cached < 0:
        return None
    return Window(
        start_s=last.at_s,
        end_s=report.at_s,
        source=WindowSource.ENGINE,
        step_s=min(took_s, passed_s) / prompts,
        gaps=0,
        batch=0.0,
        prompts=prompts,
        prompt_tokens=tokens,
        uncached_tokens=tokens - cached,
        tokens_per_step=None,
        draft_tokens=None,
        single_steps=prompts,
    )


def joined(reports: Sequence[EngineReport]) -> EngineReport:
    """The reports of a group's ranks as one: sums, and the mean and fullest KV usage."""
    if len(reports) == 1:
        return reports[0]
    counts = [report.counts for report in reports if report.counts is not None]
    usage = total(report.kv_usage for report in reports)
    usages = [report.kv_usage for report in reports if report.kv_usage is not None]
    return replace(
        reports[0],
        at_s=max(report.at_s for report in reports),
        running=total(report.running for report in reports),
        waiting=total(report.waiting for report in reports),
        kv_usage=None if usage is None else usage / len(reports),
        kv_usage_fullest=None if usage is None else max(usages),
        prompt_tokens_total=total(report.prompt_tokens_total for report in reports),
        generation_tokens_total=total(report.generation_tokens_total for report in reports),
        kv_capacity_tokens=total(report.kv_capacity_tokens for report in reports),
        counts=_sum(counts) if len(counts) == len(reports) else None,
    )


def total(values: Iterable[Number | None]) -> Number | None:
    """The sum of the values; None if one of them is unknown, or if there is none."""
    so_far: Number | None = None
    for value in values:
        if value is None:
            return None
        so_far = value if so_far is None else so_far + value
    return so_far


def _sum(counts: Sequence[EngineCounts]) -> EngineCounts:
    names = [field.name for field in fields(EngineCounts)]
    sums: dict[str, Any] = {name: total(getattr(c, name) for c in counts) for name in names}
    return EngineCounts(**sums)


def _counts(report: EngineReport) -> EngineCounts:
    return report.counts or EngineCounts()


def has_restarted(last: EngineReport, report: EngineReport) -> bool:
    """Whether a counter of the engine has fallen."""
    return (
        _fell(last.generation_tokens_total, report.generation_tokens_total)
        or _fell(last.prompt_tokens_total, report.prompt_tokens_total)
        or _fell(_counts(last).gaps, _counts(report).gaps)
    )


def new_preemptions(last: EngineReport, report: EngineReport) -> int:
    """Sequences preempted between two reports, as far as the engine counts them."""
    return _rise(_counts(last).preemptions, _counts(report).preemptions) or 0


def _fell(before: int | None, now: int | None) -> bool:
    return before is not None and now is not None and now < before


def _kv_tokens(
    last: EngineReport, report: EngineReport, own: OwnCounts, before: OwnCounts
) -> float | None:
    """Mean KV tokens at both ends; the fullest rank's share counts for every rank. None: neither
    the engine nor the scheduler knows."""
    usages = [
        end.kv_usage if end.kv_usage_fullest is None else end.kv_usage_fullest
        for end in (last, report)
    ]
    if (usage := total(usages)) is not None and report.kv_capacity_tokens is not None:
        return usage / 2 * report.kv_capacity_tokens
    counted = total((before.kv_tokens, own.kv_tokens))
    return None if counted is None else counted / 2


def _rise(before: Number | None, now: Number | None) -> Number | None:
    """How much a counter has grown; None: unknown."""
    return None if before is None or now is None else now - before


def _engine_window(
    last: EngineReport, report: EngineReport, own: OwnCounts, own_before: OwnCounts
) -> Window | None:
    """The window from the engine's counters; None if they are missing or too small."""
    now, before = _counts(report), _counts(last)
    gaps, gaps_s = _rise(before.gaps, now.gaps), _rise(before.gaps_s, now.gaps_s)
    first_tokens = _rise(before.first_tokens, now.first_tokens)
    output = _rise(last.generation_tokens_total, report.generation_tokens_total)
    prompt = _rise(last.prompt_tokens_total, report.prompt_tokens_total)
    cached = _rise(before.cached_prompt_tokens, now.cached_prompt_tokens)
    if gaps is None or gaps_s is None or gaps < FEWEST_GAPS or gaps_s <= 0:
        return None
    if first_tokens is None or output is None or prompt is None or cached is None:
        return None
    passed_s = report.at_s - last.at_s
    batch = gaps_s / passed_s  # Little's law: sequence-seconds per second
    steps = _rise(before.steps, now.steps)
    running = total((last.running, report.running))
    if steps:
        # Both estimates can be too low: the first with idle time, the second with steps that only
        # prefill.
        batch = max(batch, gaps * now.ranks / steps)
    elif running is None or batch < IDLE_SHARE * running / 2:
        return None
    drafts = now.drafts - before.drafts
    own_output = own.output_tokens - own_before.output_tokens
    return Window(
        start_s=last.at_s,
        end_s=report.at_s,
        source=WindowSource.ENGINE,
        step_s=gaps_s / gaps,
        gaps=gaps,
        batch=max(1.0, batch),
        external_batch=max(0.0, 1.0 - own_output / output) * batch if output > 0 else 0.0,
        prompts=first_tokens,
        prompt_tokens=prompt,
        uncached_tokens=max(0, prompt - cached),
        tokens_per_step=max(1.0, (output - first_tokens) / gaps),
        draft_tokens=(now.draft_tokens - before.draft_tokens) / drafts if drafts > 0 else 0.0,
    )


def _own_window(
    last: EngineReport, report: EngineReport, own: OwnCounts, before: OwnCounts
) -> Window | None:
    """The window from the gateway's own streams; all other running sequences are foreign load, of
    which an engine without that gauge shows none."""
    gaps = own.gaps - before.gaps
    gaps_s = own.gaps_s - before.gaps_s
    passed_s = report.at_s - last.at_s
    if gaps < FEWEST_GAPS or gaps_s <= 0:
        return None
    batch = gaps_s / passed_s
    running = total((last.running, report.running))
    own_sequences = before.sequences + own.sequences
    external = 0.0 if running is None else max(0.0, (running - own_sequences) / 2)
    return Window(
        start_s=last.at_s,
        end_s=report.at_s,
        source=WindowSource.GATEWAY,
        step_s=gaps_s / gaps,
        gaps=gaps,
        batch=max(1.0, batch + external),
        external_batch=external,
        prompts=own.prompts - before.prompts,
        prompt_tokens=own.prompt_tokens - before.prompt_tokens,
        uncached_tokens=own.uncached_tokens - before.uncached_tokens,
    )
