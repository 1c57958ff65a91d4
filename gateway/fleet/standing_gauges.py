"""Recognises gauges of an engine that stand still although nothing runs there.

An engine that says for many reads that the same number of requests runs, while none of its counters
moves, may hang, or its gauges may be stale. The prober then generates a token. If the token comes
and only that token moves the counters, the gauges are disbelieved until they change: how much runs
there is unknown, and the scheduler counts its own requests alone. Pure; one per placement.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from scheduler.contract import EngineReport

STANDING_READS = 10
"""Successive reads without any change after which an engine that says it is busy is probed."""
PROBE_TOKENS = 1
"""Output tokens of a probe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A report as the scheduler shall read it.

    `suspect`: the engine shall generate a token, and the next read decides.
    `believed`: whether the gauges of running and waiting requests are believed.
    """

    report: EngineReport
    suspect: bool
    believed: bool


class StandingGauges:
    """The gauges of one placement, over successive reports."""

    def __init__(self) -> None:
        self._last: EngineReport | None = None
        self._still = 0
        self._asked = False
        """Whether a probe was asked for."""
        self._awaits_probe = False
        """Whether it came, and the counters have yet to show it."""
        self._disbelieved: tuple[int | None, int | None] | None = None

    @property
    def believed(self) -> bool:
        """Whether the gauges are believed, by the reports so far."""
        return self._disbelieved is None

    def judge(self, report: EngineReport, *, probed: bool) -> Judged:
        """Judges the newest report. `probed`: a token was generated since the last one."""
        last, self._last = self._last, report
        gauges = _gauges(report)
        if self._disbelieved not in (None, gauges):
            self._disbelieved = None
        same = last is not None and _gauges(last) == gauges and gauges not in _IDLE
        moved = None if last is None else _moved(last, report)
        self._still = self._still + 1 if same and moved == 0 else 0
        if probed and self._asked:
            self._asked, self._awaits_probe = False, True
        if self._awaits_probe and moved != 0:
            self._awaits_probe = False
            if same and moved == PROBE_TOKENS:
                self._disbelieved = gauges
        suspect = self.believed and self._still >= STANDING_READS
        if suspect:
            self._still, self._asked = 0, True
        if not self.believed:
            report = replace(report, running=None, waiting=None)
        return Judged(report=report, suspect=suspect, believed=self.believed)


_IDLE = ((0, 0), (None, None))


def _gauges(report: EngineReport) -> tuple[int | None, int | None]:
    return report.running, report.waiting


def _moved(last: EngineReport, report: EngineReport) -> int | None:
    """Output tokens between two reports; None: unknown."""
    if last.generation_tokens_total is None or report.generation_tokens_total is None:
        return None
    return report.generation_tokens_total - last.generation_tokens_total
