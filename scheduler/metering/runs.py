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


@dataclass(slots=True, kw_only=True, eq=False)
class Run:
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
    prefill: int = 0
    decode: int = 0

    @property
    def whole_amounts(self) -> tuple[int, int]:
        """Its prefill and decode in whole units; all is prefill if it generates nothing."""
        prefill, decode = self.prefill // UNIT, self.decode // UNIT
        return (prefill, decode) if self.generates else (prefill + decode, 0)

    alone: int = 0
    """Part of both that it was charged as the only run of a group without external load."""


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """What an attempt has cost, nano-USD by kind of token; `priced`: no price was missing."""

    uncached_input: int
    cached_input: int
    output: int
    priced: bool
