"""Reads the single steps and finished requests that the plugin `moegate-vllm` tells.

The prober reads a replica's feed after each read of its metrics. A server without the plugin is
asked again once a minute. Whatever goes wrong here changes nothing else: the scheduler then fits
the counters of the metrics, as without the plugin.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.upstream.vllm.steps_feed import BadFeed, FeedAnswer, parse_steps
from scheduler.engine_steps import EngineSteps, ExpertSignature

log = logging.getLogger(__name__)

ABSENT_S = 60.0
"""Time between two questions to a server that has no feed, or whose feed failed."""
MOST_ANSWERS = 8
"""Answers that are read at once; the rest waits for the next read."""
Signatures = Sequence[ExpertSignature]


class Tells(Protocol):
    """What the feed asks of a vLLM server. Raises UpstreamFailure."""

    async def steps(self, cursors: Sequence[str]) -> bytes:
        """The answer of the plugin, from the cursors on."""


class EngineFeed:
    """The feed of one replica. `name`: for the log; `placement`: that its events name."""

    def __init__(self, name: str, placement: str, clock: Callable[[], float]) -> None:
        self._name = name
        self._placement = placement
        self._clock = clock
        self._cursors: dict[str, int] = {}
        """Where each API server's entries continue; the newest one last."""
        self._next_try_s = 0.0
        self._told = ""
        """What the log said last."""

    async def read(
        self,
        engine: Tells,
        report: Callable[[EngineSteps], None],
        report_signatures: Callable[[Signatures], None] | None = None,
    ) -> None:
        """Reads what is new, and reports it."""
        if self._clock() < self._next_try_s:
            return
        try:
            for _ in range(MOST_ANSWERS):
                cursors = [f"{instance}.{seen}" for instance, seen in self._cursors.items()]
                text = await engine.steps(cursors)
                answer = parse_steps(text, self._clock())
                self._log("is read")
                report(self._event(answer))
                if answer.signatures and report_signatures is not None:
                    report_signatures(answer.signatures)
                if not answer.more or answer.processes > 1:
                    break
        except UpstreamFailure as failure:
            self._next_try_s = self._clock() + ABSENT_S
            if failure.kind is not FailureKind.MODEL_NOT_FOUND:  # by HTTP 404: it has no plugin
                self._log(f"cannot be read: {failure}")
        except BadFeed as error:
            self._next_try_s = self._clock() + ABSENT_S
            self._log(f"cannot be read: {error}")

    def _event(self, answer: FeedAnswer) -> EngineSteps:
        if answer.lost:
            log.warning("%s: %d entries of its feed were not read in time", self._name, answer.lost)
        known = answer.instance in self._cursors
        restarted = not known and len(self._cursors) >= answer.processes
        if restarted:
            self._cursors.clear()
        self._cursors[answer.instance] = answer.next
        return EngineSteps(
            placement=self._placement,
            at_s=self._clock(),
            steps=answer.steps,
            requests=answer.requests,
            whole=answer.processes == 1,
            restarted=restarted,
            experts=answer.experts,
        )

    def _log(self, what: str) -> None:
        if what != self._told:
            self._told = what
            log.info("%s: the feed of its steps %s", self._name, what)
