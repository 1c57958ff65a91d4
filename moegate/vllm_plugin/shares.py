"""What each request had of the engine's steps, in seconds of the engine. Knows nothing of vLLM.

A step that decodes B sequences takes 1/B of its time for each. A step that computes prompts too
costs its sequences what such a step usually takes without them, and the prompts what it takes
longer, each by its tokens. So all requests together had exactly the time in which the engine
stepped, and none pays for the time in which it did not.

A request that is preempted leaves the steps and is computed again later: it has no part of the
steps in between, and what is computed again counts as its prompt.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

KEPT_STEPS = 8192
"""Steps that are kept at least: requests are asked for a little later than they end."""
KEPT_PROMPTS = 4096
"""Steps with prompts that one prompt may extend over."""
USUAL_WEIGHT = 0.05
STALL_FACTOR = 2.0
"""A step counts as at most so much of the usual one of its batch, in the mean."""
MARK = "_moegate_part"


@dataclass
class Part:
    """What a request had so far.

    `decode_s`: up to its last preemption; `decoding_from`: the engine's sum at the token from which
    it has decoded since; None: it does not. `computed_from_s`: since when its prompt is computed;
    None: it is not. `left`: how often it was preempted.
    """

    prefill_s: float = 0.0
    decode_s: float = 0.0
    decoding_from: float | None = None
    computed_from_s: float | None = None
    left: int = 0
    is_lost: bool = False


class Change(NamedTuple):
    """A request is scheduled (`runs`), or preempted, at this time of the engine's clock."""

    runs: bool
    at_s: float


class Had(NamedTuple):
    """Seconds that a request had of the engine."""

    prefill_s: float
    decode_s: float


class StepShares:
    """The shares of one engine. Times are seconds of the engine's own clock.

    A request is vLLM's `RequestStateStats`, or whatever has `scheduled_ts`, `first_token_ts`,
    `last_token_ts` and `num_preemptions`, and takes the attribute `MARK`.
    """

    def __init__(self) -> None:
        self._ends: list[float] = []
        self._sums: list[float] = []
        """Ends of the newest steps, and the seconds per decoding sequence up to there."""
        self._usual_s: dict[int, float] = {}
        """Mean time of a step that only decodes, by its sequences."""
        self._prompts: deque[tuple[float, float, int]] = deque(maxlen=KEPT_PROMPTS)
        """Steps that computed prompts: their end, the prompts' seconds, and their tokens."""
        self._answered: list[tuple[Any, int, Sequence[Change]]] = []
        self._end_s: float | None = None
        self._batch = 0

    def outputs(self, end_s: float) -> None:
        """A step has ended; `step` follows."""
        self._end_s = end_s

    def answered(self, request: Any, prompt_tokens: int, changes: Sequence[Change] = ()) -> None:
        """A request has its first token by this step, or its next one after a preemption.

        `prompt_tokens`: computed for it, at most; `changes`: since its last token, as far as it was
        preempted.
        """
        self._answered.append((request, prompt_tokens, changes))

    def step(self, *, took_s: float, sequences: int, prefill_tokens: int) -> None:
        """Divides a step. `sequences`: those that decode."""
        end_s, self._end_s = self._end_s, None
        last_s = self._ends[-1] if self._ends else None
        if end_s is None:  # without outputs nothing tells when it ended
            end_s = took_s if last_s is None else last_s + took_s
        end_s = end_s if last_s is None else max(end_s, last_s)
        decode_s = took_s if sequences else 0.0
        if prefill_tokens:
            decode_s = min(decode_s, self._usual(sequences)) if sequences else 0.0
            self._prompts.append((end_s, took_s - decode_s, prefill_tokens))
        elif sequences:
            usual_s = self._usual_s.get(sequences, took_s)
            counted_s = min(took_s, STALL_FACTOR * usual_s)
            self._usual_s[sequences] = usual_s + USUAL_WEIGHT * (counted_s - usual_s)
        so_far_s = self._sums[-1] if self._sums else 0.0
        self._ends.append(end_s)
        self._sums.append(so_far_s + (decode_s / sequences if sequences else 0.0))
        self._batch = sequences
        if len(self._ends) > 2 * KEPT_STEPS:
            del self._ends[:KEPT_STEPS], self._sums[:KEPT_STEPS]
        for request, tokens, changes in self._answered:
            self._follow(request, tokens, changes)
        self._answered.clear()

    def _follow(self, request: Any, tokens: int, changes: Sequence[Change]) -> None:
        """Brings the part of a request up to the step that was divided last."""
        part = getattr(request, MARK, None)
        if part is None:
            part = Part(computed_from_s=request.scheduled_ts)
            setattr(request, MARK, part)
        for number, change in enumerate(changes, start=1):
            if change.runs:
                part.computed_from_s = change.at_s
                continue
            # Nothing after it: the token was under way already, so this step was still its own.
            at_s = change.at_s if number < len(changes) else math.inf
            part.left += 1
            if part.decoding_from is not None:
                part.is_lost |= at_s < self._ends[0]
                part.decode_s += self._sum_at(at_s) - part.decoding_from
                part.decoding_from = None
            elif part.computed_from_s is not None:
                part.prefill_s += self._prefill_s(part.computed_from_s, at_s, tokens)
            part.computed_from_s = None
        if part.computed_from_s is not None:
            part.prefill_s += self._prefill_s(part.computed_from_s, math.inf, tokens)
            part.computed_from_s, part.decoding_from = None, self._sums[-1]

    def _sum_at(self, at_s: float) -> float:
        return self._sums[max(0, bisect_right(self._ends, at_s) - 1)]

    def had(self, request: Any) -> Had | None:
        """What a request had up to its last token; None: that is unknown."""
        part, last_s = getattr(request, MARK, None), request.last_token_ts
        if part is None or part.is_lost or part.decoding_from is None:
            return None
        if part.left != request.num_preemptions or not self._ends or last_s < self._ends[0]:
            return None
        at = bisect_right(self._ends, last_s) - 1
        decode_s = part.decode_s + self._sums[at] - part.decoding_from
        if at == len(self._ends) - 1 and self._batch:  # its last step is not divided yet
            decode_s += (last_s - self._ends[at]) / self._batch
        return Had(part.prefill_s, max(0.0, decode_s))

    def _usual(self, sequences: int) -> float:
        """What a step of these sequences takes without prompts, by the nearest that is known."""
        if sequences in self._usual_s:
            return self._usual_s[sequences]
        if not self._usual_s:
            return 0.0
        return self._usual_s[min(self._usual_s, key=lambda known: abs(known - sequences))]

    def _prefill_s(self, from_s: float, until_s: float, tokens: int) -> float:
        """A prompt's seconds of the steps that ended in a time. Of several prompts in the same
        steps, each has its part by tokens."""
        seconds, computed = 0.0, 0
        for end_s, took_s, step_tokens in reversed(self._prompts):
            if end_s <= from_s:
                break
            if end_s <= until_s:
                seconds += took_s
                computed += step_tokens
        return seconds * min(1.0, tokens / computed) if computed else 0.0
