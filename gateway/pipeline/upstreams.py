"""The servers that run generations, as the pipeline needs them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Protocol

from gateway.domain.generation import Chunk, Generation


class Upstream(Protocol):
    """Client of one placement. Raises UpstreamFailure."""

    def stream(self, generation: Generation, *, deadline_s: float) -> AsyncGenerator[Chunk, None]:
        """Chunks as they come; the last one carries the usage."""


class Upstreams(Protocol):
    """The servers that run generations."""

    @property
    def clients(self) -> Mapping[str, Upstream]:
        """Client by placement."""

    @property
    def cannot_continue(self) -> frozenset[str]:
        """Placements that cannot continue the answer of another server."""

    def unsupported_by(self, generation: Generation) -> dict[str, tuple[str, ...]]:
        """Fields of a generation that a placement cannot honour, by placement of its model."""

    def notify_refused(self, placement: str, reason: str) -> None:
        """A self-hosted placement let no connection in."""

    def notify_silent(self, placement: str) -> None:
        """A self-hosted placement brought no token in time."""
