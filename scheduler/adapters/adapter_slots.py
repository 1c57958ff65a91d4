"""Adapters of one self-hosted placement: loaded, running, and those in the slots of its engine.

An engine computes at most `most_active` different adapters in one batch; vLLM lets a request for
one more wait until another adapter has no running request (vllm/v1/core/sched/scheduler.py). An
adapter stays in its slot after its last request until another one takes it, the least recently used
first.
"""

from __future__ import annotations

from scheduler.adapters.adapter_report import AdapterReport

ACTIVATION_S = 0.02
"""Assumed time in which an engine copies an adapter into a slot, within the step of the prefill."""
ASSUMED_SLOTS = 1
"""Slots of an engine that does not tell them: vLLM's default of --max-loras."""


class AdapterSlots:
    """The adapters of one placement. Knows its own requests exactly, and others as told."""

    __slots__ = ("_recent", "_report", "_running")

    def __init__(self) -> None:
        self._report: AdapterReport | None = None
        self._running: dict[str, int] = {}
        """Requests of the scheduler that run, by adapter."""
        self._recent: dict[str, None] = {}
        """Adapters that were started last, the newest one last: those in the slots."""

    @property
    def loaded(self) -> frozenset[str]:
        """Adapters that the server lists; empty before it has told."""
        return frozenset() if self._report is None else self._report.loaded

    def observe(self, report: AdapterReport) -> bool:
        """Records a report. Returns whether it lists other adapters than before."""
        before, self._report = self.loaded, report
        self._trim()
        return before != report.loaded

    def begin(self, adapter: str) -> None:
        """Records the start of a request for the adapter."""
        self._running[adapter] = self._running.get(adapter, 0) + 1
        self._recent.pop(adapter, None)
        self._recent[adapter] = None
        self._trim()

    def end(self, adapter: str) -> None:
        """Records the end of a request for the adapter."""
        left = self._running[adapter] - 1
        if left:
            self._running[adapter] = left
        else:
            del self._running[adapter]

    def restart(self) -> None:
        """Records that the engine has restarted: its slots are empty."""
        self._recent = dict.fromkeys(self._running)

    def running(self, *, external: bool) -> frozenset[str]:
        """Adapters with requests in the engine. `external`: whether other clients' requests run
        there. Without them the scheduler's own count is exact, and what the server told may show
        requests that have ended."""
        own = frozenset(self._running)
        if not external or self._report is None or self._report.active is None:
            return own
        return own | self._report.active

    def has_slot(self, adapter: str, *, external: bool) -> bool:
        """Whether the engine could compute the adapter beside those that run."""
        if self._report is None or self._report.most_active is None:
            return True
        running = self.running(external=external)
        return adapter in running or len(running) < self._report.most_active

    def is_active(self, adapter: str, *, external: bool) -> bool:
        """Whether the adapter is taken to be in a slot, so that it starts without being copied."""
        return adapter in self._recent or adapter in self.running(external=external)

    def _trim(self) -> None:
        most = None if self._report is None else self._report.most_active
        for adapter in tuple(self._recent)[: -(most or ASSUMED_SLOTS)]:
            if adapter not in self._running:
                del self._recent[adapter]
