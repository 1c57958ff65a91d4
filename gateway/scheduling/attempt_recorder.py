"""Meters every attempt while it runs and settles its cost at the end.

No function here raises or blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from gateway.scheduling.metering import Metering
from scheduler.contract import (
    AttemptOutcome,
    EngineReport,
    Event,
    Request,
    ServingChanged,
    Start,
    Usage,
)
from scheduler.engine_steps import EngineRequest, EngineSteps, EngineTimes
from scheduler.metering.cost import GroupMeter
from scheduler.metering.engine_phases import EndedRun, correct_phases
from scheduler.metering.rate_snapshot import RateSnapshot
from scheduler.metering.runs import Run
from scheduler.metering.settlement import (
    Metered,
    SettledAttempt,
    Sink,
    is_useful,
    settle,
    token_counts,
)
from scheduler.metering.totals import SECOND_NS
from scheduler.port import AttemptEnd
from scheduler.pricing import NO_TOKENS

MOST_ENDED = 4096
"""Ended runs that wait for the engine's own seconds; older ones are forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """How far an attempt was that an earlier scheduler has started. `is_over`: it has ended
    meanwhile, unobserved, so that its share of the bill is unknown."""

    output_tokens: int = 0
    is_over: bool = False


class OpenAttempt:
    """One running attempt."""

    __slots__ = (
        *("_group", "_metering", "_on_run_ended", "_pool", "_rates", "_request", "_run"),
        *("_sinks", "_start"),
    )

    def __init__(
        self,
        request: Request,
        start: Start,
        *,
        rates: RateSnapshot,
        pool: str,
        group: GroupMeter | None,
        metering: Metering,
        sinks: tuple[Sink, ...],
        on_run_ended: Callable[[EndedRun], None],
        now_s: float,
        resumed: Resumed | None,
    ) -> None:
        """`on_run_ended`: receives a run that the engine may tell its own seconds of."""
        self._request, self._start = request, start
        self._on_run_ended = on_run_ended
        self._rates, self._pool, self._sinks = rates, pool, sinks
        self._metering, self._group = metering, group
        self._run: Run | None = None
        if group is not None and (resumed is None or not resumed.is_over):
            decodes = resumed is not None and resumed.output_tokens > 0
            self._run = group.start(
                metering.ns(now_s),
                prompt_tokens=request.prompt_tokens,
                # A prompt that was computed before costs nothing from now on.
                cached_tokens=request.prompt_tokens if decodes else start.predicted_cached_tokens,
                choices=max(request.choices, request.inputs),
                generates=request.max_output_tokens > 0,
            )
            if decodes and resumed is not None:
                group.progress(self._run, resumed.output_tokens, metering.ns(now_s))

    def record_progress(self, output_tokens: int, now_s: float) -> None:
        """Records the cumulative output tokens of all choices. `now_s`: monotonic seconds."""
        if self._run is not None and self._group is not None:
            self._group.progress(self._run, output_tokens, self._metering.ns(now_s))

    def settle(
        self, end: AttemptEnd, now_s: float, *, charge_limit_nano_usd: int | None = None
    ) -> SettledAttempt:
        """Settles the cost of the attempt, passes it to the sinks and returns it.
        `charge_limit_nano_usd`: most that is charged for it; None: no limit."""
        now_unix_s = self._metering.ns(now_s) / SECOND_NS  # as the meter books it
        settled = settle(
            self._request,
            self._start,
            rate_snapshot=self._rates,
            pool=self._pool,
            outcome=end.outcome,
            committed=end.committed,
            usage=end.usage,
            metered=self._end_run(end.usage, end.outcome, end.committed, now_s, end.engine),
            started_unix_s=now_unix_s - end.duration_s,
            ended_unix_s=now_unix_s,
            may_be_continued=end.may_be_continued,
            charge_limit_nano_usd=charge_limit_nano_usd,
        )
        if self._group is not None:
            if settled.charged_nano_usd is not None:
                self._group.totals.charged_nano_usd += settled.charged_nano_usd
            if end.outcome is AttemptOutcome.OK:
                self._count_slo(self._group, end)
        for sink in self._sinks:
            sink(settled)
        return settled

    def discard(self, now_s: float) -> None:
        """Drops an attempt that never reached its upstream. It used nothing and has no cost."""
        self._end_run(None, AttemptOutcome.CANCELLED, False, now_s)

    def _end_run(
        self,
        usage: Usage | None,
        outcome: AttemptOutcome,
        committed: bool,
        now_s: float,
        engine: EngineTimes | None = None,
    ) -> Metered | None:
        group, run = self._group, self._run
        if group is None or run is None:
            return None
        self._run = None
        counts = NO_TOKENS if usage is None else token_counts(usage)
        now_ns = self._metering.ns(now_s)
        useful = is_useful(outcome, committed=committed)
        share = group.end(
            run,
            now_ns,
            uncached_tokens=counts.input_tokens - counts.cached_input_tokens,
            cached_tokens=counts.cached_input_tokens,
            output_tokens=counts.output_tokens,
            waste=not useful,
            engine=engine,
        )
        if useful and run.decodes and run.generates and run.choices == 1 and not share.by_steps:
            self._on_run_ended(
                EndedRun(
                    prefill=share.uncached_input + share.cached_input,
                    decode=share.output,
                    decode_s=(now_ns - run.decodes_ns) / SECOND_NS,
                    whole_s=(now_ns - run.sent_ns) / SECOND_NS,
                )
            )
        if not share.priced:
            return None
        return Metered(
            uncached_input=share.uncached_input,
            cached_input=share.cached_input,
            output=share.output,
        )

    def _count_slo(self, group: GroupMeter, end: AttemptEnd) -> None:
        totals, slo = group.totals, self._request.slo
        totals.ended += 1
        if end.ttft_s is None:
            return
        totals.slo_known += 1
        slow = end.ttft_s > slo.ttft_s or (end.tpot_s or 0.0) > slo.tpot_s
        totals.slo_met += not slow


class AttemptRecorder:
    """Opens an attempt record for every start."""

    def __init__(self, metering: Metering, sinks: tuple[Sink, ...]) -> None:
        self.rates = RateSnapshot()
        """Prices for requests admitted from now on."""
        self._metering = metering
        self._groups: Mapping[str, str] = {}
        self._pools: Mapping[str, str] = {}
        self._sinks = sinks
        self._ended: dict[tuple[str, str], EndedRun] = {}
        """Runs that ended last, by group and request, of which the engine has not told yet."""

    def configure(self, groups: Mapping[str, str], pools: Mapping[str, str]) -> None:
        """Sets the group of each self-hosted placement and the pool of each placement."""
        self._groups, self._pools = groups, pools

    def begin(
        self,
        request: Request,
        start: Start,
        rates: RateSnapshot,
        now_s: float,
        resumed: Resumed | None = None,
    ) -> OpenAttempt:
        """Opens the record of a starting attempt. `rates`: prices at the request's admission. A
        placement configured after the admission uses the current prices. `resumed`: an earlier
        scheduler has started it; it is metered from now on."""
        if not rates.covers(start.placement):
            rates = self.rates
        group = self._groups.get(start.placement)
        return OpenAttempt(
            request,
            start,
            rates=rates,
            pool=self._pools.get(start.placement, ""),
            group=None if group is None else self._metering.group(group),
            metering=self._metering,
            sinks=self._sinks,
            on_run_ended=partial(self._remember, (group or "", request.request_id)),
            now_s=now_s,
            resumed=resumed,
        )

    def observe(self, event: Event, now_s: float) -> None:
        """Passes engine reports and serving changes to the meter."""
        match event:
            case EngineReport() if event.placement in self._groups:
                self._metering.report(self._groups[event.placement], event, now_s)
            case EngineSteps() if event.placement in self._groups:
                self._correct(self._groups[event.placement], event.requests)
            case ServingChanged() if event.placement in self._groups:
                self._metering.serving(self._groups[event.placement], event.serving, now_s)
            case _:
                pass

    def _remember(self, key: tuple[str, str], run: EndedRun) -> None:
        self._ended[key] = run
        if len(self._ended) > MOST_ENDED:
            del self._ended[next(iter(self._ended))]

    def _correct(self, group: str, requests: Iterable[EngineRequest]) -> None:
        """Corrects the phases of runs of which the engine has told its own seconds."""
        for request in requests:
            run = self._ended.pop((group, request.request_id), None)
            meter = self._metering.group(group)
            if run is not None and meter is not None:
                correct_phases(meter.totals, run, request)
