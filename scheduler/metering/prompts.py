"""Whose prompt a group computes: the attempts that have no token yet, in the order sent.

A prompt is computed for its predicted time at most, then its token is awaited. While the engine
queues, only as many are at it as have left its queue, and what is sent then is behind those that
wait. Some are admitted unseen (others left, KV blocks came free): what such a one was not charged
before its first token it owes then, and pays at once.
"""

from __future__ import annotations

from scheduler.metering.runs import Run

SPENT_S = 1e-12
"""What is left of a prefill when it is over, but for floats."""


class Prompts:
    """Of one group. A run is in one of three places: at its turn, computed, owing; or in none."""

    __slots__ = ("_computed", "_computed_sequences", "_owing", "_turns", "sequences")

    def __init__(self) -> None:
        self._turns: dict[Run, None] = {}
        self._computed: dict[Run, None] = {}
        self._owing: dict[Run, None] = {}
        self._computed_sequences = 0
        self.sequences = 0
        """That have no token yet."""

    def sent(self, run: Run) -> None:
        """An attempt was sent with a prompt to compute."""
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
        """Predicted prefill of what is at its turn or waits for it; no longer counted than that."""
        whole_s = 0.0
        for run in self._turns:
            whole_s += run.prefill_s
            if whole_s >= enough_s:
                break
        return whole_s

    def spent(self, run: Run) -> bool:
        """All that was left of a prefill was charged; whether that changes whose turn it is."""
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
        """Its first token came, or it is believed to decode. Where the engine `queued`, it owes
        what is left of its prefill, as far as there was time for it; else the prediction was long.
        """
        self.gone(run)
        charged_s = run.prefill_s - run.left_s
        run.left_s = min(run.left_s, (now_ns - run.sent_ns) * 1e-9 - charged_s)
        if queued and run.left_s > SPENT_S:
            self._owing[run] = None
        else:
            run.left_s = 0.0

    def gone(self, run: Run) -> None:
        """It ended, or leaves for `answered`."""
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
        """Sequences without a token that were sent after that time."""
        count = 0
        for run in reversed(self._turns):
            if run.sent_ns <= at_ns:
                break
            count += run.choices
        return count

    def overdue(self, at_ns: int) -> list[Run]:
        """Runs whose token is awaited and whose prefill should have been over at that time."""
        return [run for run in self._computed if run.sent_ns + run.prefill_s * 1e9 <= at_ns]
