"""Follows every attempt of a dispatcher: the meter while it runs, its account when it is over.

The dispatcher calls it at the start, with token counts, and at the end; it asks nothing back. None
of its calls raises or waits.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import msgspec

from gateway.accounting.metering import Metering
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
from scheduler.pricing import TokenCounts


class AttemptResult(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt ended, for its account.

    `handed_over`: the client has content of it; `ttft_s` from the request's arrival, `tpot_s` as
    the SLO counts them; None: not known. `goes_on`: another attempt continues its answer.
    """

    outcome: AttemptOutcome
    handed_over: bool
    usage: Usage | None
    duration_s: float
    ttft_s: float | None
    tpot_s: float | None
    goes_on: bool = False


_NO_TOKENS = TokenCounts(uncached_input_tokens=0, output_tokens=0)


class OpenAttempt:
    """One attempt that runs."""

    __slots__ = ("_book", "_dispatch", "_group", "_metering", "_pool", "_request", "_run", "_sinks")

    def __init__(
        self,
        request: Request,
        dispatch: Start,
        *,
        book: RateSnapshot,
        pool: str,
        group: GroupMeter | None,
        metering: Metering,
        sinks: tuple[Sink, ...],
        now_s: float,
    ) -> None:
        self._request, self._dispatch = request, dispatch
        self._book, self._pool, self._sinks = book, pool, sinks
        self._metering, self._group = metering, group
        self._run: Run | None = None
        if group is not None:
            self._run = group.start(
                metering.ns(now_s),
                prompt_tokens=request.prompt_tokens,
                cached_tokens=dispatch.predicted_cached_tokens,
                choices=request.choices,
            )

    def progress(self, output_tokens: int, now_s: float) -> None:
        """Output tokens so far, all choices together."""
        if self._run is not None and self._group is not None:
            self._group.progress(self._run, output_tokens, self._metering.ns(now_s))

    def end(self, result: AttemptResult, now_s: float) -> SettledAttempt:
        """Closes the account and tells the sinks."""
        now_unix_s = time.time()
        settled = settle(
            self._request,
            self._dispatch,
            book=self._book,
            pool=self._pool,
            outcome=result.outcome,
            handed_over=result.handed_over,
            usage=result.usage,
            metered=self._meter_end(result, now_s),
            started_unix_s=now_unix_s - result.duration_s,
            ended_unix_s=now_unix_s,
            goes_on=result.goes_on,
        )
        if self._group is not None and settled.charged_nano_usd is not None:
            self._group.totals.charged_nano_usd += settled.charged_nano_usd
        for sink in self._sinks:
            sink(settled)
        return settled

    def _meter_end(self, result: AttemptResult, now_s: float) -> Metered | None:
        group, run = self._group, self._run
        if group is None or run is None:
            return None
        self._run = None
        counts = _NO_TOKENS if result.usage is None else token_counts(result.usage)
        kept = result.outcome in (AttemptOutcome.OK, AttemptOutcome.CANCELLED)
        share = group.end(
            run,
            self._metering.ns(now_s),
            uncached_tokens=counts.input_tokens - counts.cached_input_tokens,
            cached_tokens=counts.cached_input_tokens,
            output_tokens=counts.output_tokens,
            waste=not (kept or result.handed_over),
        )
        if result.outcome is AttemptOutcome.OK:
            self._count_slo(group, result)
        if not share.priced:
            return None
        return Metered(
            uncached_input=share.uncached_input,
            cached_input=share.cached_input,
            output=share.output,
        )

    def _count_slo(self, group: GroupMeter, result: AttemptResult) -> None:
        totals, slo = group.totals, self._request.slo
        totals.ended += 1
        if result.ttft_s is None:
            return
        totals.slo_known += 1
        slow = result.ttft_s > slo.ttft_s or (result.tpot_s or 0.0) > slo.tpot_s
        totals.slo_met += not slow


class AttemptRecorder:
    """Of one dispatcher. `groups` and `pools`: by own placement."""

    def __init__(
        self,
        *,
        book: RateSnapshot,
        metering: Metering,
        groups: Mapping[str, str],
        pools: Mapping[str, str],
        sinks: tuple[Sink, ...] = (),
    ) -> None:
        self.book = book
        """Prices of requests that come from now on."""
        self._metering = metering
        self._groups = groups
        self._pools = pools
        self._sinks = sinks

    def begin(
        self, request: Request, dispatch: Start, book: RateSnapshot, now_s: float
    ) -> OpenAttempt:
        """An attempt starts; `book`: the prices at the request's admission."""
        group = self._groups.get(dispatch.placement)
        return OpenAttempt(
            request,
            dispatch,
            book=book,
            pool=self._pools.get(dispatch.placement, ""),
            group=None if group is None else self._metering.group(group),
            metering=self._metering,
            sinks=self._sinks,
            now_s=now_s,
        )

    def observe(self, event: Event, now_s: float) -> None:
        """Takes what the engines say of themselves, and whether they serve."""
        match event:
            case EngineReport() if event.placement in self._groups:
                self._metering.report(self._groups[event.placement], event, now_s)
            case ServingChanged() if event.placement in self._groups:
                self._metering.serving(self._groups[event.placement], event.serving, now_s)
            case _:
                pass
