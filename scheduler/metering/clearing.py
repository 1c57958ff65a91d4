"""Settles ended runs by what the engine says that they had of its steps; the sums stay whole.

While a run is in flight, its part of the price is an estimate, and every instant goes to those that
seem to run. The engine's own figure comes with its end. What the run was charged too much waits for
those that were charged too little: they ran at the same time. The balance is

    positive   charged to ended runs too much; it counts as idle, and is idle if nobody needs it
    negative   charged to runs in flight too much, and paid to one that has ended; it is never
               larger than what they were charged

so that no account falls below zero, and a run that asks for more than there is gets what there is.
"""

from __future__ import annotations

from scheduler.engine_steps import EngineTimes
from scheduler.metering.runs import Run
from scheduler.metering.totals import SCALE, SCALE_BITS, Totals

CLOCKS = 1.001
"""Two clocks, or sums of floats, may differ by this factor."""
MOST_KV_FACTOR = 4
"""Bound of a run's KV tokens against those of a mean sequence, in time."""


class Clearing:
    """The balance of one group. Amounts count as in `Totals`.

    `prefill`, `decode`: charged to the runs in flight.
    """

    __slots__ = ("_owed", "balance", "decode", "prefill")

    def __init__(self) -> None:
        self.balance = self.prefill = self.decode = 0
        self._owed = (0, 0)
        """A negative balance by phase, as it is taken out of the sums."""

    def charge(self, prefill: int, decode: int) -> None:
        """Counts what runs in flight are charged."""
        self.prefill += prefill
        self.decode += decode

    def end(self, totals: Totals, run: Run) -> None:
        """A run is no longer in flight; `settle` follows."""
        self.prefill -= run.prefill
        self.decode -= run.decode
        prefill, decode = self._owed
        totals.prefill += prefill
        totals.decode += decode
        totals.idle -= max(0, self.balance)

    def settle(self, totals: Totals, run: Run, wanted: tuple[int, int], enough: int) -> None:
        """Makes these the prefill and decode of a run that has ended, as far as there is as much. A
        balance beyond `enough` is idle for good: no run in flight can have had more."""
        prefill, decode = wanted
        charged, in_flight = run.prefill + run.decode, self.prefill + self.decode
        most = charged + self.balance + in_flight
        if prefill + decode > most:
            prefill = prefill * most // (prefill + decode)
            decode = most - prefill
        left = self.balance + charged - prefill - decode
        self.balance = min(left, enough)
        owed = max(0, -self.balance)
        owed_decode = min(owed, self.decode)
        self._owed = (owed - owed_decode, owed_decode)
        totals.prefill += prefill - run.prefill - (owed - owed_decode)
        totals.decode += decode - run.decode - owed_decode
        totals.idle += max(left, 0)
        run.prefill, run.decode = prefill, decode

    def lose(self, lost: Totals) -> None:
        """Of sums in which the runs in flight are waste: what they paid for others is none."""
        prefill, decode = self._owed
        lost.prefill += prefill
        lost.decode += decode
        lost.waste -= prefill + decode


def had_of_engine(
    run: Run, engine: EngineTimes | None, whole_ns: int, price: int
) -> tuple[int, int] | None:
    """Amounts of a run's prefill and decode by the engine's steps; None: it does not tell.

    The engine divides a step evenly. A sequence that holds more KV tokens than the others has more
    of it, as in the charge so far. `price`: of the group over the `whole_ns` of the attempt.
    """
    if engine is None or engine.prefill_had_s is None or engine.decode_had_s is None:
        return None
    whole_s = whole_ns * 1e-9
    had_s = engine.prefill_had_s + engine.decode_had_s
    if not run.generates or not 0.0 < had_s <= CLOCKS * engine.whole_s:
        return None
    if engine.whole_s > CLOCKS * whole_s:
        return None
    prefill = price * int(engine.prefill_had_s / whole_s * SCALE)
    decode = price * int(engine.decode_had_s / whole_s * SCALE)
    if run.even:
        most = MOST_KV_FACTOR * run.even
        decode = decode * min(max(run.decode, run.even // MOST_KV_FACTOR), most) // run.even
    whole = price << SCALE_BITS
    return (prefill, min(decode, whole - prefill))
