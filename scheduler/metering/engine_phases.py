"""Corrects how a request's cost divides into prefill and decode, by the engine's own seconds.

The meter sees the first token when the gateway does: late by the network and by how often it looks,
which for short answers is much of the whole. The engine tells afterwards how long it decoded. The
share of decode is then that time at the request's own mean rate. What the request cost, and what
its tenant pays, stays: only the rates by kind of token are better.
"""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.engine_steps import EngineRequest
from scheduler.metering.totals import UNIT, Totals

LEAST_SHARE, MOST_SHARE = 0.5, 1.02
"""The engine's seconds are at least and at most so much of the attempt's: else they are those of
another attempt of this name, or the clocks disagree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedRun:
    """A run of one choice that was charged. Amounts in nano-USD; `decode_s`: that it was charged as
    decoding; `whole_s`: from sending to its end."""

    prefill: int
    decode: int
    decode_s: float
    whole_s: float


def correct_phases(totals: Totals, run: EndedRun, request: EngineRequest) -> int:
    """Moves an amount between prefill and decode of the totals; returns what decode gained,
    nano-USD."""
    parts = (request.queued_s, request.prefill_s, request.decode_s)
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or request.decode_s is None or run.decode_s <= 0:
        return 0
    if not LEAST_SHARE * run.whole_s <= sum(known) <= MOST_SHARE * run.whole_s:
        return 0
    wanted = int(run.decode * (request.decode_s / run.decode_s))
    gained = min(wanted - run.decode, run.prefill)
    totals.decode += gained * UNIT
    totals.prefill -= gained * UNIT
    return gained
