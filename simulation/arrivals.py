"""Requests that arrive at a simulated fleet, and their outcomes."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from scheduler.contract import RefusalReason, Request
from simulation.engine.kv_cache import Key
from simulation.engine.sequences import LengthRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A request, with the facts that only the engine learns.

    Attributes:
        request: as the decider sees it; `arrival_s` is when it comes.
        output_tokens: length of its answer.
        content: keys of its full extents, prompt then answer, as far as others may share them.
        gives_up_s: its client hangs up so long after the arrival; None: it stays.
    """

    request: Request
    output_tokens: int
    content: Sequence[Key] = ()
    gives_up_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalArrival:
    """A request that another client sends directly to an engine."""

    at_s: float
    placement: str
    request: LengthRequest


class OutcomeKind(enum.StrEnum):
    """How a request ended."""

    FINISHED = "finished"
    REJECTED = "rejected"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A request that has ended.

    Attributes:
        placement: its last placement; "" if it never ran.
        first_token_s, ended_s: when; None: no token came.
        cached_tokens: of its prompt, found in the engine's prefix cache.
        gpu_s: step time that it caused (see the module).
    """

    arrival: Arrival
    kind: OutcomeKind
    reason: RefusalReason | None
    placement: str
    dispatched_s: float | None
    first_token_s: float | None
    ended_s: float
    output_tokens: int
    cached_tokens: int
    gpu_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Requests by where they are; `submitted` is the sum of the others."""

    submitted: int
    finished: int
    rejected: int
    cancelled: int
    running: int
    queued: int

    @property
    def conserved(self) -> bool:
        """Whether no request was lost or counted twice."""
        ended = self.finished + self.rejected + self.cancelled
        return self.submitted == ended + self.running + self.queued
