"""The upstream clients, as the pipeline uses them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Protocol

from gateway.domain.generation import Chunk, Generation


class Upstream(Protocol):
    """Client of one placement. Its methods raise UpstreamFailure."""

    def stream(self, generation: Generation, *, deadline_s: float) -> AsyncGenerator[Chunk, None]:
        """Yields chunks as they arrive. The last chunk has the usage. `deadline_s`: monotonic
        seconds."""


class Upstreams(Protocol):
    """The upstream clients of all placements."""

    @property
    def clients(self) -> Mapping[str, Upstream]:
        """Upstream client per placement name."""

    @property
    def cannot_continue(self) -> frozenset[str]:
        """Placements that cannot continue an answer that another placement began."""

    def unsupported_by(self, generation: Generation) -> dict[str, tuple[str, ...]]:
        """Returns the unsupported fields of a generation, keyed by placement of its model."""

    def signed_by(self, generation: Generation) -> frozenset[str]:
        """Returns the placements that made the newest reasoning signature in the history."""

    def notify_refused(self, placement: str, reason: str) -> None:
        """Reports that a self-hosted placement refused the connection."""

    def notify_silent(self, placement: str) -> None:
        """Reports that a self-hosted placement timed out."""

    def notify_adapter_missing(self, placement: str) -> None:
        """Reports that a self-hosted placement does not have an adapter that it had."""
