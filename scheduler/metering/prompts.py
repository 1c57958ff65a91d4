"""Determines which prompt a group computes among its attempts without a token, in sending order.

A prompt is charged for its predicted time at most; after that its first token is awaited. While the
engine has a queue, only as many prompts are computed as have left the queue, and new ones join its
end. The engine admits some unseen, after others leave or KV blocks become free: such a run owes
whatever it was not charged before its first token, and is charged it then.
"""

from __future__ import annotations

from scheduler.metering.runs import Run

SPENT_S = 1e-12
"""Remaining seconds of a prefill that count as none, because of rounding."""


class Prompts:
    """Prompts of one group. A run is at its turn, computed, owing, or in none of these states."""

    __slots__ = ("_computed", "_computed_sequences", "_owing", "_turns", "sequences")

    def __init__(self) -> None:
        self._turns: dict[Run, None] = {}
        self._computed: dict[Run, None] = {}
        self._owing: dict[Run, None] = {}
        self._computed_sequences = 0
        self.sequences = 0
        """Number of runs without a token."""

    def sent(self, run: Run) -> None:
        """Adds an attempt with a prompt to compute."""
        self._turns[run] = None
        self.sequences += run.choices

    def head(self, *, decoding: int, others: int, most: int, waiting: int) -> Run | None:
        """The prompt that the price is paid for; None: none, or the engine only queues them.

        `decoding`, `others`: own and others' sequences that run, of `most`; `waiting`: own ones
        that the engine queues.
        """
        if self._owing:
            return next(iter(self._owing))
        if not self._turns:
            # Where nothing decodes: a prompt that takes longer than predicted.
            return next(iter(self._computed), None) if not decoding else None
        full = decoding + self._computed_sequences + others >= most or (
            waiting > 0 and self.sequences - waiting <= self._computed_sequences
        )
        return None if full and decoding else next(iter(self._turns))

    def seconds(self, enough_s: float) -> float:
        """Predicted prefill seconds of the runs that are at their turn or wait for it."""
        whole_s = 0.0
        for run in self._turns:
            whole_s += run.prefill_s
            if whole_s >= enough_s:
                break
        return whole_s

    def spent(self, run: Run) -> bool:
        """Ends a prefill that is fully charged; returns whether another prompt is at its turn
        now."""
        run.left_s = 0.0
        if run in self._owing:
            del self._owing[run]
        elif run in self._turns:
            del self._turns[run]
            self._computed[run] = None
            self._computed_sequences += run.choices
        else:
            return False
        return True

    def answered(self, run: Run, now_ns: int, *, queued: bool) -> None:
        """Records that the first token came, or that the run is assumed to decode. If the engine
        `queued`, the run owes the rest of its prefill, limited by the time available for it;
        otherwise the prediction was too long.
        """
        self.gone(run)
        charged_s = run.prefill_s - run.left_s
        run.left_s = min(run.left_s, (now_ns - run.sent_ns) * 1e-9 - charged_s)
        if queued and run.left_s > SPENT_S:
            self._owing[run] = None
        else:
            run.left_s = 0.0

    def gone(self, run: Run) -> None:
        """Removes a run that ended or that `answered` moves on."""
        self._owing.pop(run, 1)
        if run in self._turns:
            del self._turns[run]
        elif run in self._computed:
            del self._computed[run]
            self._computed_sequences -= run.choices
        else:
            return
        self.sequences -= run.choices

    def sent_after(self, at_ns: int) -> int:
        """Number of sequences without a token that were sent after the given time."""
        count = 0
        for run in reversed(self._turns):
            if run.sent_ns <= at_ns:
                break
            count += run.choices
        return count

    def overdue(self, at_ns: int) -> list[Run]:
        """Runs whose token is awaited and whose prefill should have been over at that time."""
        return [run for run in self._computed if run.sent_ns + run.prefill_s * 1e9 <= at_ns]
