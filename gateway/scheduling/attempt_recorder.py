"""Records every attempt: the meter runs with it, and its account is settled at its end.

Nothing here raises or waits.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

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
from scheduler.metering.cost import GroupMeter
from scheduler.metering.rate_snapshot import RateSnapshot
from scheduler.metering.runs import Run
from scheduler.metering.settlement import Metered, SettledAttempt, Sink, settle
from scheduler.metering.token_counts import token_counts
from scheduler.port import AttemptEnd
from scheduler.pricing import TokenCounts

_NO_TOKENS = TokenCounts(uncached_input_tokens=0, output_tokens=0)


class OpenAttempt:
    """One attempt that runs."""

    __slots__ = ("_group", "_metering", "_pool", "_rates", "_request", "_run", "_sinks", "_start")

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
        now_s: float,
    ) -> None:
        self._request, self._start = request, start
        self._rates, self._pool, self._sinks = rates, pool, sinks
        self._metering, self._group = metering, group
        self._run: Run | None = None
        if group is not None:
            self._run = group.start(
                metering.ns(now_s),
                prompt_tokens=request.prompt_tokens,
                cached_tokens=start.predicted_cached_tokens,
                choices=request.choices,
            )

    def record_progress(self, output_tokens: int, now_s: float) -> None:
        """Output tokens so far, all choices together."""
        if self._run is not None and self._group is not None:
            self._group.progress(self._run, output_tokens, self._metering.ns(now_s))

    def settle(self, end: AttemptEnd, now_s: float) -> SettledAttempt:
        """Closes the account and gives it to the sinks."""
        now_unix_s = time.time()
        account = settle(
            self._request,
            self._start,
            book=self._rates,
            pool=self._pool,
            outcome=end.outcome,
            handed_over=end.committed,
            usage=end.usage,
            metered=self._end_run(end.usage, end.outcome, end.committed, now_s),
            started_unix_s=now_unix_s - end.duration_s,
            ended_unix_s=now_unix_s,
            goes_on=end.goes_on,
        )
        if self._group is not None:
            if account.charged_nano_usd is not None:
                self._group.totals.charged_nano_usd += account.charged_nano_usd
            if end.outcome is AttemptOutcome.OK:
                self._count_slo(self._group, end)
        for sink in self._sinks:
            sink(account)
        return account

    def discard(self, now_s: float) -> None:
        """The attempt never began upstream: it used nothing, and has no account."""
        self._end_run(None, AttemptOutcome.CANCELLED, False, now_s)

    def _end_run(
        self, usage: Usage | None, outcome: AttemptOutcome, committed: bool, now_s: float
    ) -> Metered | None:
        group, run = self._group, self._run
        if group is None or run is None:
            return None
        self._run = None
        counts = _NO_TOKENS if usage is None else token_counts(usage)
        kept = outcome in (AttemptOutcome.OK, AttemptOutcome.CANCELLED)
        share = group.end(
            run,
            self._metering.ns(now_s),
            uncached_tokens=counts.input_tokens - counts.cached_input_tokens,
            cached_tokens=counts.cached_input_tokens,
            output_tokens=counts.output_tokens,
            waste=not (kept or committed),
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
    """Opens the attempts of a scheduler."""

    def __init__(self, metering: Metering, sinks: tuple[Sink, ...]) -> None:
        self.rates = RateSnapshot()
        """Prices of requests that come from now on."""
        self._metering = metering
        self._groups: Mapping[str, str] = {}
        self._pools: Mapping[str, str] = {}
        self._sinks = sinks

    def configure(self, groups: Mapping[str, str], pools: Mapping[str, str]) -> None:
        """Group of each self-hosted placement, and pool of each placement."""
        self._groups, self._pools = groups, pools

    def begin(
        self, request: Request, start: Start, rates: RateSnapshot, now_s: float
    ) -> OpenAttempt:
        """An attempt starts. `rates`: the prices at the request's admission. A placement that was
        configured later has the prices of now."""
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
            now_s=now_s,
        )

    def observe(self, event: Event, now_s: float) -> None:
        """Takes what engines report, and whether they serve."""
        match event:
            case EngineReport() if event.placement in self._groups:
                self._metering.report(self._groups[event.placement], event, now_s)
            case ServingChanged() if event.placement in self._groups:
                self._metering.serving(self._groups[event.placement], event.serving, now_s)
            case _:
                pass
