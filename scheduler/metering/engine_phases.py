"""Uses the engine's own seconds of a request: for what it cost, and how that divides into phases.

An attempt also takes time outside the engine: on the network, in vLLM's HTTP server and tokenizer.
A run that had the group for itself was charged the whole price in that time, in which the GPUs did
nothing. With its last event the engine may tell how long it worked on the request, and the rest of
that charge is idle time. In a disaggregated group neither stage works on a request while the KV
cache of its prompt travels from one to the other, and that time is idle, too. Beside other runs the
same time costs nothing extra: a prompt is charged its predicted time at most, and the first and the
last token come late alike.

The meter sees the first token when the gateway does, too. The plugin's feed tells afterwards how
long the engine decoded. The share of decode is then that time at the request's own mean rate. What
the request cost, and what its tenant pays, stays: only the rates by kind of token are better.
"""

from __future__ import annotations

import msgspec

from scheduler.engine_steps import EngineRequest, EngineTimes
from scheduler.metering.runs import Run
from scheduler.metering.totals import UNIT, Totals
from scheduler.step_time.step_model import StepModel

LEAST_SHARE, MOST_SHARE = 0.5, 1.02
"""The engine's seconds are at least and at most so much of the attempt's: else they are those of
another attempt of this name, or the clocks disagree."""
LEAST_ENGINE_SHARE = 0.1
"""The same of the seconds that come with the answer itself, so that they are no other attempt's."""


def return_outside(
    totals: Totals,
    run: Run,
    engine: EngineTimes | None,
    now_ns: int,
    pair: StepModel | None = None,
) -> int:
    """Moves what a run was charged, alone, for time outside the engine to idle; returns it.

    Seconds that cannot be those of the whole attempt count for nothing. The time before the first
    token is most of it, so the amount is taken from the prefill first.

    `pair`: the model of a disaggregated group. The engine that answers tells only of itself there,
    so what was charged while the KV cache of the prompt travelled is moved instead.
    """
    whole_s = (now_ns - run.sent_ns) * 1e-9
    if pair is not None:
        outside = _while_moved(run, pair.transfer.seconds(run.prompt_tokens))
    elif engine is None or not LEAST_ENGINE_SHARE * whole_s <= engine.whole_s < whole_s:
        return 0
    else:
        outside = int((1.0 - engine.whole_s / whole_s) * run.alone)
    outside = min(max(0, outside), run.prefill + run.decode)
    prefill = min(outside, run.prefill)
    run.prefill -= prefill
    run.decode -= outside - prefill
    totals.prefill -= prefill
    totals.decode -= outside - prefill
    totals.idle += outside
    return outside


def _while_moved(run: Run, transfer_s: float) -> int:
    """What a run was charged beyond its predicted prefill, for as long as a transfer takes."""
    if run.overrun_s <= transfer_s:
        return run.overrun
    return int(run.overrun * (transfer_s / run.overrun_s))


class EndedRun(msgspec.Struct, frozen=True, kw_only=True):
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
    if len(known) < len(parts) or request.decode_s is None:
        return 0
    if run.decode <= 0 or run.decode_s <= 0:
        return 0
    if not LEAST_SHARE * run.whole_s <= sum(known) <= MOST_SHARE * run.whole_s:
        return 0
    wanted = run.decode * (request.decode_s / run.decode_s)  # infinite for hardly any time
    gained = int(min(wanted, run.decode + run.prefill)) - run.decode
    totals.decode += gained * UNIT
    totals.prefill -= gained * UNIT
    return gained
