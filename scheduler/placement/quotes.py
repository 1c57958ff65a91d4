"""What a request asks of its placements, and what each own one would promise it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scheduler.contract import Request
from scheduler.output_length import Floats

_NOT_SERVING = np.int8(1)
"""numpy compares plain integers faster than enum members."""


class Block(enum.IntEnum):
    """Why a placement cannot be taken; FREE: it can."""

    FREE = 0
    NOT_SERVING = 1
    TRIED = 2
    NOT_PERMITTED = 3
    CONTEXT = 4
    SLOTS = 5
    KV = 6
    TTFT = 7
    TPOT = 8
    HARM = 9
    HELD = 10
    PAUSED = 11


_FIRST_OF_REQUEST, _LAST_OF_REQUEST = np.int8(Block.TRIED), np.int8(Block.CONTEXT)
"""Blocks that follow from the request alone."""

BLOCK_TEXT = {
    Block.FREE: "can take it",
    Block.NOT_SERVING: "not in service",
    Block.TRIED: "an attempt failed there",
    Block.NOT_PERMITTED: "cannot honour a field of the request",
    Block.CONTEXT: "context too short",
    Block.SLOTS: "no free sequence slot",
    Block.KV: "KV cache would be full",
    Block.TTFT: "first token would be late",
    Block.TPOT: "tokens would be slow",
    Block.HARM: "its prefill would harm running streams",
    Block.HELD: "idle: a running group may take it in time",
    Block.PAUSED: "asked to be spared for a while",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementQuery:
    """A request as a quote needs it.

    Attributes:
        excluded: shape (placements,), a `Block` for those that are out of the question, else FREE;
            None: no one is.
        hit_tokens: shape (placements,), prompt tokens expected in each prefix cache.
        output_tokens: expected, all choices together.
        reserve_tokens: KV tokens to count it with: prompt and expected output.
        spread_tokens: by how much its output may well exceed that: one in ten does.
        ttft_s: the time to first token that it is promised.
        late: its time to first token is lost already, and binds no more.
    """

    request: Request
    ttft_s: float
    excluded: npt.NDArray[np.int8] | None
    hit_tokens: Floats
    output_tokens: float
    reserve_tokens: int
    spread_tokens: float
    late: bool

    @property
    def possible(self) -> bool:
        """Whether an own placement may take it, now or later."""
        blocks = self.excluded
        if blocks is None:
            return len(self.hit_tokens) > 0
        return self.possible_now or bool((blocks == Block.PAUSED).any())

    @property
    def possible_now(self) -> bool:
        """Whether any placement is left to be quoted: not all are excluded or paused."""
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


@dataclass(slots=True)
class Quote:
    """Figures of every own placement of a model, each an array of shape (placements,).

    `figures`: the arrays, a row each. The scheduler works in the same ones again and again: a quote
    holds until the next one is made, and whoever wants it longer takes what `kept` returns.
    """

    figures: Floats
    blocked: npt.NDArray[np.int8]
    hit_tokens: Floats
    steps: Floats | float
    """Steps that the request is expected to stay for."""
    nano_usd_per_s: Floats

    ROWS = 9

    def kept(self) -> Quote:
        """The same, which does not change any more."""
        return Quote(
            self.figures.copy(), self.blocked, self.hit_tokens, self.steps, self.nano_usd_per_s
        )

    @property
    def wait_s(self) -> Floats:
        """Prefills before its own."""
        row: Floats = self.figures[0]
        return row

    @property
    def prefill_s(self) -> Floats:
        """Its own."""
        row: Floats = self.figures[2]
        return row

    @property
    def ttft_s(self) -> Floats:
        """From now until its first token."""
        row: Floats = self.figures[3]
        return row

    @property
    def tpot_s(self) -> Floats:
        """Time per output token after it."""
        row: Floats = self.figures[4]
        return row

    @property
    def victims(self) -> Floats:
        """Streams that its prefill is expected to push past their promise."""
        row: Floats = self.figures[7]
        return row

    @property
    def score(self) -> Floats:
        """What the objective compares, less is better."""
        row: Floats = self.figures[8]
        return row

    @property
    def marginal_nano_usd(self) -> Floats:
        """Time of the group that the request adds; meaningful only where the rate is known."""
        stalled_s, added_s = self.figures[5], self.figures[6]
        marginal: Floats = (stalled_s + self.steps * added_s) * self.nano_usd_per_s
        return marginal

    def best_s(self) -> tuple[float, float]:
        """Shortest prefill, and shortest time to a first token but for pending prefills."""
        possible = self.blocked != _NOT_SERVING
        count = np.count_nonzero(possible)
        if not count:
            return 0.0, 0.0
        service_s = self.ttft_s - self.wait_s
        prefill_s = self.prefill_s
        if count < len(possible):
            service_s, prefill_s = service_s[possible], prefill_s[possible]
        return prefill_s.item(prefill_s.argmin()), service_s.item(service_s.argmin())


class Desk:
    """The arrays that quotes are worked out in: memory that is warm when the next one comes.

    `rows`: those of `Quote.figures`: wait, its sum with the prefill, prefill, TTFT, TPOT, stall and
    step time that it adds, victims, score. `stalls_s`: shape (2, placements), the group's stall
    without and with the newcomer; `stalls`: the same as positions on the harm curves; `unharmed`:
    `blocked`, harm apart.
    """

    __slots__ = ("at", "harm", "made", "most_victims", "rows", "stalls", "stalls_s", "unharmed")

    def __init__(self, placements: int, all_free: npt.NDArray[np.int8]) -> None:
        figures = np.zeros((Quote.ROWS, placements))
        nothing = np.zeros(placements)
        self.made = Quote(figures, all_free, nothing, 0.0, nothing)
        self.rows = tuple(figures)
        self.stalls_s: Floats = figures[:2]
        self.stalls: Floats = np.zeros((2, placements))
        self.harm: Floats = np.zeros((2, placements))
        self.at = np.zeros((2, placements), dtype=np.intp)
        self.most_victims: Floats | float = 0.0
        self.unharmed = all_free
