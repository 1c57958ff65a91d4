"""What observes one request: the pipeline's view of telemetry.

The calls come a few times per request, never per token, unless the observer asks for content. None
may raise or wait.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from gateway.domain.failures import UpstreamFailure
from gateway.domain.generation import Chunk, Generation
from gateway.domain.outcomes import Finished, RequestOutcome
from scheduler.contract import Refuse, Request, Start
from scheduler.metering.settlement import SettledAttempt
from scheduler.port import AttemptEnd, BranchKind, Started


class AttemptAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What an attempt's upstream said. `response_id`: its own name for the answer; `last`: its last
    chunk with output."""

    failure: UpstreamFailure | None
    model: str
    response_id: str
    last: Chunk | None


class RequestObserver(Protocol):
    """Observes one request. Two attempts may run at once: a hedge."""

    @property
    def wants_content(self) -> bool:
        """Whether `content` shall be called with every chunk."""

    @property
    def wants_decision(self) -> bool:
        """Whether `Started` shall carry the decision's record."""

    def queued(self, position: int) -> None:
        """It waits for a decision; `position`: requests in the queue, itself included. 0: it was
        decided at once."""

    def started(self, start: Start, waited_s: float) -> None:
        """A placement was found, `waited_s` after the request came or its last attempt ended."""

    def refused(self, refuse: Refuse, waited_s: float) -> None:
        """It was refused."""

    def attempt(self, started: Started, kind: BranchKind, generation: Generation) -> Generation:
        """An attempt begins; the generation that is returned is sent, with the attempt's trace."""

    def content(self, attempt: int, chunk: Chunk) -> None:
        """Output came. `attempt`: its number."""

    def attempt_ended(
        self, start: Start, end: AttemptEnd, answer: AttemptAnswer, account: SettledAttempt
    ) -> None:
        """The attempt is over, and its account settled."""

    def finished(self, finished: Finished) -> None:
        """The request ended well."""

    def ended(self, outcome: RequestOutcome) -> None:
        """The request is over, however it ended."""


class Unobserved:
    """The observer of a gateway without telemetry."""

    wants_content = False
    wants_decision = False

    def queued(self, position: int) -> None:
        """Nothing."""

    def started(self, start: Start, waited_s: float) -> None:
        """Nothing."""

    def refused(self, refuse: Refuse, waited_s: float) -> None:
        """Nothing."""

    def attempt(self, started: Started, kind: BranchKind, generation: Generation) -> Generation:
        """The caller's own trace goes on, as the hints have it."""
        return generation

    def content(self, attempt: int, chunk: Chunk) -> None:
        """Nothing."""

    def attempt_ended(
        self, start: Start, end: AttemptEnd, answer: AttemptAnswer, account: SettledAttempt
    ) -> None:
        """Nothing."""

    def finished(self, finished: Finished) -> None:
        """Nothing."""

    def ended(self, outcome: RequestOutcome) -> None:
        """Nothing."""


UNOBSERVED = Unobserved()
Observe = Callable[[Request, Generation], RequestObserver]
"""Makes the observer of a request; called in the task that runs it."""


def unobserved(request: Request, generation: Generation) -> RequestObserver:
    """The `Observe` of a gateway without telemetry."""
    return UNOBSERVED
