"""Placement queries and quotes: the input and the result of one placement decision.

A `PlacementQuery` describes a request; a `Quote` holds the predicted figures of every self-hosted
placement of its model. `QuoteBuffers` is the memory that one fleet reuses for all its quotes.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from scheduler.contract import Request
from scheduler.output_length import Floats

Blocks = npt.NDArray[np.int8]
"""A `Block` for each placement, shape (placements,)."""


class Block(enum.IntEnum):
    """Why a placement cannot take the request; FREE: it can."""

    FREE = 0
    NOT_SERVING = 1
    TRIED = 2
    NOT_PERMITTED = 3
    CONTEXT = 4
    NOT_LOADED = 5
    ADAPTER_SLOTS = 6
    SLOTS = 7
    KV = 8
    TTFT = 9
    TPOT = 10
    INTERFERENCE = 11
    HELD = 12
    PAUSED = 13
    PREFILLS = 14


_FIRST_OF_REQUEST, _LAST_OF_REQUEST = np.int8(Block.TRIED), np.int8(Block.ADAPTER_SLOTS)
"""Blocks that follow from the request alone, or from the adapter that it names."""
_PASSING = np.array((Block.PAUSED, Block.ADAPTER_SLOTS), dtype=np.int8)
"""Blocks of a query that end without a change of the request or the fleet."""

BLOCK_TEXT = {
    Block.FREE: "can take it",
    Block.NOT_SERVING: "not in service",
    Block.TRIED: "an attempt failed there",
    Block.NOT_PERMITTED: "cannot honour a field of the request",
    Block.CONTEXT: "context too short",
    Block.NOT_LOADED: "has not loaded the adapter",
    Block.ADAPTER_SLOTS: "runs as many other adapters as it can",
    Block.SLOTS: "no free sequence slot",
    Block.KV: "KV cache would be full",
    Block.TTFT: "first token would be late",
    Block.TPOT: "tokens would be slow",
    Block.INTERFERENCE: "its prefill would harm running streams",
    Block.HELD: "idle: a running group may take it in time",
    Block.PREFILLS: "prompts that are pending take several steps",
    Block.PAUSED: "asked to be spared for a while",
}

_NOT_SERVING = np.int8(Block.NOT_SERVING)
"""numpy compares plain integers faster than enum members."""


class PlacementQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A request in the form that a quote needs.

    Attributes:
        ttft_s: promised time to first token, from arrival.
        margin_s: part of it that is kept for errors of the prediction.
        excluded: blocks that were found before the quote, shape (placements,); None: no placement
            is excluded.
        hit_tokens: prompt tokens expected in each placement's prefix cache, shape (placements,).
        output_tokens: expected output of all choices together.
        reserve_tokens: KV tokens to reserve: the prompt and the expected output.
        spread_tokens: output tokens beyond the expected ones that one answer in ten exceeds.
        late: the promised time to first token has passed, so it no longer constrains the choice.
        most_step_s: longest time per token with which it may start, beside its own promise.
        activation_s: time in which each placement makes the request's adapter active, shape
            (placements,); None: the request names no adapter.
    """

    request: Request
    ttft_s: float
    excluded: Blocks | None
    hit_tokens: Floats
    output_tokens: float
    reserve_tokens: int
    spread_tokens: float
    late: bool
    margin_s: float = 0.0
    most_step_s: float = math.inf
    activation_s: Floats | None = None

    @property
    def possible(self) -> bool:
        """Whether a self-hosted placement may take the request, now or later."""
        blocks = self.excluded
        if blocks is None:
            return len(self.hit_tokens) > 0
        return self.possible_now or bool(np.isin(blocks, _PASSING).any())

    @property
    def possible_now(self) -> bool:
        """Whether any placement is left to be quoted: none of the blocks is on all of them."""
        blocks = self.excluded
        if blocks is None:
            return len(self.hit_tokens) > 0
        return bool(np.count_nonzero(blocks) < len(blocks))

    @property
    def restricted(self) -> bool:
        """Whether a placement is excluded by what this request is or where it failed, so that it
        says nothing of what others find there."""
        blocks = self.excluded
        return blocks is not None and bool(
            np.count_nonzero((blocks >= _FIRST_OF_REQUEST) & (blocks <= _LAST_OF_REQUEST))
        )


_WAIT, _OWN_END, _PREFILL, _TTFT, _TPOT, _STALL_ADDED, _STEP_ADDED, _VIOLATIONS, _SCORE = range(9)
"""Rows of `Quote.figures`."""


@dataclass(slots=True)
class Quote:
    """Predicted figures of every self-hosted placement, each an array of shape (placements,).

    `figures` holds the arrays as rows. A fleet writes every quote to the same memory, so a quote is
    valid until the next one is made; `kept` returns a copy that stays valid.
    """

    figures: Floats
    blocked: Blocks
    hit_tokens: Floats
    steps: Floats | float
    """Decode steps for which the request is expected to stay."""
    nano_usd_per_s: Floats
    slowest_ttft_s: float = 0.0
    """The longest of `ttft_s`."""

    ROWS = 9

    def kept(self) -> Quote:
        """A copy that later quotes do not overwrite."""
        return Quote(
            self.figures.copy(),
            self.blocked,
            self.hit_tokens,
            self.steps,
            self.nano_usd_per_s,
            self.slowest_ttft_s,
        )

    def set_times(self, index: int, ttft_s: float, tpot_s: float) -> None:
        """Replaces the times of one placement by those that the client is told."""
        self.figures[_TTFT, index] = ttft_s
        self.figures[_TPOT, index] = tpot_s

    @property
    def wait_s(self) -> Floats:
        """Time until the prefills before the request's own are done."""
        row: Floats = self.figures[_WAIT]
        return row

    @property
    def own_end_s(self) -> Floats:
        """Time until the request's own prefill is done, decode steps not counted."""
        row: Floats = self.figures[_OWN_END]
        return row

    @property
    def prefill_s(self) -> Floats:
        """Time of the request's own prefill."""
        row: Floats = self.figures[_PREFILL]
        return row

    @property
    def ttft_s(self) -> Floats:
        """Time from now until the first token."""
        row: Floats = self.figures[_TTFT]
        return row

    @property
    def tpot_s(self) -> Floats:
        """Time per output token after the first."""
        row: Floats = self.figures[_TPOT]
        return row

    @property
    def stall_added_s(self) -> Floats:
        """Time by which the request's prefill prolongs the stall of the placement's group."""
        row: Floats = self.figures[_STALL_ADDED]
        return row

    @property
    def step_added_s(self) -> Floats:
        """Time by which the request prolongs each decode step of the group."""
        row: Floats = self.figures[_STEP_ADDED]
        return row

    @property
    def violations_expected(self) -> Floats:
        """Expected number of running streams whose TPOT SLO the request's prefill violates."""
        row: Floats = self.figures[_VIOLATIONS]
        return row

    @property
    def score(self) -> Floats:
        """The figure that the pool's objective minimises."""
        row: Floats = self.figures[_SCORE]
        return row

    @property
    def marginal_nano_usd(self) -> Floats:
        """Cost of the group time that the request adds; comparable only where rates are known."""
        marginal: Floats = self.stall_added_s + self.steps * self.step_added_s
        marginal *= self.nano_usd_per_s
        return marginal

    def best_s(self) -> tuple[float, float]:
        """Shortest prefill, and shortest time to first token without the wait, over the placements
        in service; zeros where none is."""
        possible = self.blocked != _NOT_SERVING
        count = np.count_nonzero(possible)
        if not count:
            return 0.0, 0.0
        service_s = self.ttft_s - self.wait_s
        prefill_s = self.prefill_s
        if count < len(possible):
            service_s, prefill_s = service_s[possible], prefill_s[possible]
        return prefill_s.item(prefill_s.argmin()), service_s.item(service_s.argmin())


class QuoteBuffers:
    """Arrays that one fleet computes all its quotes in: allocated once, warm in the CPU's cache.

    Arrays that `Quote` has, too, are the same memory. Of those with two rows the first is without
    the request and the second with it.

    Attributes:
        next_step_s: T(B + choices) of each group, the memory of `tpot_s`: the step time is the time
            per token until it is divided by the tokens per step.
        own_stalls_s: shape (2, placements), `wait_s` and `own_end_s` as one array: the stall of a
            group that has one rank.
        stall_positions: shape (2, placements), stalls as positions on the interference curves.
        line_positions: shape (2, placements), the same as positions in the fleet's line table.
        line_at: shape (2, placements), `line_positions` as integers.
    """

    __slots__ = (
        *("line_at", "line_positions", "next_step_s", "own_end_s", "own_stalls_s", "prefill_s"),
        *("quote", "score", "stall_added_s", "stall_positions", "step_added_s", "tpot_s", "ttft_s"),
        *("violations_expected", "wait_s"),
    )

    def __init__(self, placements: int, all_free: Blocks) -> None:
        zeros = np.zeros(placements)
        quote = Quote(np.zeros((Quote.ROWS, placements)), all_free, zeros, 0.0, zeros)
        self.quote = quote
        self.wait_s = quote.wait_s
        self.own_end_s = quote.own_end_s
        self.prefill_s = quote.prefill_s
        self.ttft_s = quote.ttft_s
        self.tpot_s = quote.tpot_s
        self.next_step_s = quote.tpot_s
        self.stall_added_s = quote.stall_added_s
        self.step_added_s = quote.step_added_s
        self.violations_expected = quote.violations_expected
        self.score = quote.score
        self.own_stalls_s: Floats = quote.figures[_WAIT : _OWN_END + 1]
        self.stall_positions: Floats = np.zeros((2, placements))
        self.line_positions: Floats = np.zeros((2, placements))
        self.line_at = np.zeros((2, placements), dtype=np.intp)
