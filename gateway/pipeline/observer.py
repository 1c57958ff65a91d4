"""The interface through which the pipeline reports a request to telemetry.

The pipeline calls it a few times per request, and per chunk only if the observer wants content. No
method may raise or block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from gateway.domain.failures import UpstreamFailure
from gateway.domain.generation import Chunk, Deviation, Generation
from gateway.domain.outcomes import Finished, RequestOutcome
from scheduler.contract import Refuse, Request, Start
from scheduler.metering.settlement import SettledAttempt
from scheduler.port import AttemptEnd, BranchKind, Started


class AttemptAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The upstream's part of an attempt's result. `response_id`: the upstream's id of the answer.
    `last`: the last chunk with output; `deviations`: what the answer did not keep to."""

    failure: UpstreamFailure | None
    model: str
    response_id: str
    last: Chunk | None
    deviations: tuple[Deviation, ...] = ()


class RequestObserver(Protocol):
    """Observes one request. Two attempts of it run at once while it is hedged."""

    @property
    def wants_content(self) -> bool:
        """Whether the pipeline calls `content` with every chunk."""

    @property
    def wants_decision(self) -> bool:
        """Whether `Started` must include the decision record."""

    def queued(self, position: int) -> None:
        """The request waits for a decision. `position`: queued requests, including this one; 0:
        decided at once."""

    def started(self, start: Start, waited_s: float) -> None:
        """A placement was chosen, `waited_s` seconds after arrival or after the last attempt
        ended."""

    def refused(self, refuse: Refuse, waited_s: float) -> None:
        """The request was refused, `waited_s` seconds after arrival or after the last attempt
        ended."""

    def attempt(self, started: Started, kind: BranchKind, generation: Generation) -> Generation:
        """An attempt begins. Returns the generation to send, with the attempt's trace context."""

    def content(self, attempt: int, chunk: Chunk) -> None:
        """The attempt with this number produced a chunk."""

    def attempt_ended(
        self, start: Start, end: AttemptEnd, answer: AttemptAnswer, settled: SettledAttempt
    ) -> None:
        """The attempt has ended, and its cost is settled."""

    def finished(self, finished: Finished) -> None:
        """The request succeeded."""

    def ended(self, outcome: RequestOutcome) -> None:
        """The request has ended with this outcome."""


class Unobserved:
    """Observer of a gateway without telemetry."""

    wants_content = False
    wants_decision = False

    def queued(self, position: int) -> None:
        """Does nothing."""

    def started(self, start: Start, waited_s: float) -> None:
        """Does nothing."""

    def refused(self, refuse: Refuse, waited_s: float) -> None:
        """Does nothing."""

    def attempt(self, started: Started, kind: BranchKind, generation: Generation) -> Generation:
        """Returns the generation unchanged; its hints carry the caller's trace context."""
        return generation

    def content(self, attempt: int, chunk: Chunk) -> None:
        """Does nothing."""

    def attempt_ended(
        self, start: Start, end: AttemptEnd, answer: AttemptAnswer, settled: SettledAttempt
    ) -> None:
        """Does nothing."""

    def finished(self, finished: Finished) -> None:
        """Does nothing."""

    def ended(self, outcome: RequestOutcome) -> None:
        """Does nothing."""


UNOBSERVED = Unobserved()
Observe = Callable[[Request, Generation], RequestObserver]
"""Creates the observer of a request. Called in the task that runs the request."""


def unobserved(request: Request, generation: Generation) -> RequestObserver:
    """The `Observe` of a gateway without telemetry."""
    return UNOBSERVED
