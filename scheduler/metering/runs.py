"""Runs on a metered group, their cost, and the node split of a disaggregated group."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from scheduler.metering.totals import UNIT


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeShare:
    """Number of prefill and decode nodes of a disaggregated group; all nodes cost the same."""

    prefill: int
    decode: int


class Run(msgspec.Struct, kw_only=True, eq=False):
    """An attempt that runs on a group. Only the meter reads its fields."""

    choices: int
    prompt_tokens: int
    prefill_s: float
    """Predicted prefill time."""
    left_s: float
    """Part of `prefill_s` that is not yet charged."""
    sent_ns: int
    opened_unpriced_ns: int
    generates: bool = True
    """False: all of its time counts as prefill, in proportion to its prompt tokens."""
    kv_tokens: int = 0
    """KV tokens that weigh its share while it decodes; the choices share the prompt."""
    output_tokens: int = 0
    decodes: bool = False
    decodes_ns: int = 0
    """Since when it is charged as decoding."""
    seen_sequence: int = 0
    seen_kv: int = 0
    seen_even: int = 0
    prefill: int = 0
    decode: int = 0
    even: int = 0
    """What `decode` would be if all sequences of a step had the same part of it."""
    opened_price: int = 0
    """Price of the group up to the sending."""

    @property
    def whole_amounts(self) -> tuple[int, int]:
        """Its prefill and decode in whole units; all is prefill if it generates nothing."""
        prefill, decode = self.prefill // UNIT, self.decode // UNIT
        return (prefill, decode) if self.generates else (prefill + decode, 0)

    alone: int = 0
    """Part of both that it was charged as the only run of a group without external load."""
    overrun: int = 0
    """Part of `prefill` that it was charged beyond the predicted time, while its token was
    awaited."""
    overrun_s: float = 0.0

    def charge_prefill(self, amount: int, spent_s: float) -> None:
        """Charges it for its prompt. `spent_s`: predicted seconds that passed."""
        self.prefill += amount
        if self.left_s:
            self.left_s = max(1e-15, self.left_s - spent_s)
        else:
            self.overrun += amount
            self.overrun_s += spent_s


class Counters:
    """What each decoding sequence has accrued since the beginning, so that sharing an instant costs
    the same for any number of runs. Amounts count as in `Totals`."""

    __slots__ = ("_even", "_kv", "_sequence")

    def __init__(self) -> None:
        self._sequence = self._kv = self._even = 0

    def add(self, price: int, *, sequence: int, kv: int, even: int) -> None:
        """Shares a price by the weights of a sequence, of a KV token, and of an even part."""
        self._sequence += price * sequence
        self._kv += price * kv
        self._even += price * even

    def mark(self, run: Run) -> None:
        """Begins or continues a run that decodes, from here on."""
        run.seen_sequence, run.seen_kv, run.seen_even = self._sequence, self._kv, self._even

    def owed(self, run: Run) -> int:
        """The amount that a run has accrued since it was last booked."""
        if not run.decodes:
            return 0
        shared = run.choices * (self._sequence - run.seen_sequence)
        return shared + run.kv_tokens * (self._kv - run.seen_kv)

    def collect(self, run: Run) -> None:
        """Books to a decoding run what it has accrued."""
        run.decode += self.owed(run)
        run.even += run.choices * (self._even - run.seen_even)
        self.mark(run)


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """What an attempt has cost, nano-USD by kind of token; `priced`: no price was missing;
    `by_steps`: by what the engine says that it had of its steps."""

    uncached_input: int
    cached_input: int
    output: int
    priced: bool
    by_steps: bool = False
