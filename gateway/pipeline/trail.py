"""What watches one request on its way: the dispatcher's view of telemetry.

The calls come a few times per request, never per token, unless the trail asks for content. None
may raise or wait.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from gateway.domain.failures import UpstreamFailure
from gateway.domain.generation import Chunk, Generation
from gateway.translation.responses import Finished
from scheduler.contract import Refuse, Start
from scheduler.metering.settlement import SettledAttempt


class AttemptEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt ended. `ttft_s` counts from its own start; `last`: its last chunk with
    output; `committed`: the client has content of it; `response_id`: the upstream's name for the
    answer, empty where it told none."""

    settled: SettledAttempt
    detail: str
    failure: UpstreamFailure | None
    committed: bool
    ttft_s: float | None
    tpot_s: float | None
    output_tokens: int
    model: str
    response_id: str
    last: Chunk | None


class Trail(Protocol):
    """Sees what becomes of one request. Two attempts may run at once: a hedge."""

    @property
    def wants_content(self) -> bool:
        """Whether `content` shall be called with every chunk."""

    def waits(self, position: int) -> None:
        """It waits for a decision. `position`: requests in the queue with it, itself included; 0:
        it was decided at once."""

    def decided(self, action: Start | Refuse, waited_s: float) -> None:
        """The scheduler decided, `waited_s` after the request came or its last attempt ended."""

    def attempt(self, action: Start, generation: Generation) -> Generation:
        """An attempt starts; what comes back is sent, and carries the trace of the attempt."""

    def content(self, attempt: int, chunk: Chunk) -> None:
        """Output came. `attempt`: its number."""

    def ended(self, action: Start, end: AttemptEnd) -> None:
        """The attempt is over."""

    def finished(self, finished: Finished) -> None:
        """The request ended well."""


class Unobserved:
    """The trail of a gateway without telemetry."""

    wants_content = False

    def waits(self, position: int) -> None:
        """Nothing."""

    def decided(self, action: Start | Refuse, waited_s: float) -> None:
        """Nothing."""

    def attempt(self, action: Start, generation: Generation) -> Generation:
        """The caller's own trace goes on, as the hints have it."""
        return generation

    def content(self, attempt: int, chunk: Chunk) -> None:
        """Nothing."""

    def ended(self, action: Start, end: AttemptEnd) -> None:
        """Nothing."""

    def finished(self, finished: Finished) -> None:
        """Nothing."""


UNOBSERVED = Unobserved()
