"""What each request had of the engine's steps, in seconds of the engine. Knows nothing of vLLM.

A step that decodes B sequences takes 1/B of its time for each. A step that computes prompts too
costs its sequences what such a step usually takes without them, and the prompts what it takes
longer, each by its tokens. So all requests together had exactly the time in which the engine
stepped, and none pays for the time in which it did not.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from typing import Any, NamedTuple

KEPT_STEPS = 8192
"""Steps that are kept at least: requests are asked for a little later than they end."""
KEPT_PROMPTS = 4096
"""Steps with prompts that one prompt may extend over."""
USUAL_WEIGHT = 0.05
STALL_FACTOR = 2.0
"""A step counts as at most so much of the usual one of its batch, in the mean."""
MARK = "_moegate_begun"


class Begun(NamedTuple):
    """A request at its first token: seconds of its prompt, and the engine's sum at that time."""

    prefill_s: float
    decoded_s: float


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
        self._answered: list[tuple[Any, int]] = []
        self._end_s: float | None = None
        self._batch = 0

    def outputs(self, end_s: float) -> None:
        """A step has ended; `step` follows."""
        self._end_s = end_s

    def answered(self, request: Any, prompt_tokens: int) -> None:
        """A request has its first token by this step. `prompt_tokens`: computed for it."""
        self._answered.append((request, prompt_tokens))

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
        for request, tokens in self._answered:
            begun = Begun(self._prefill_s(request, tokens), self._sums[-1])
            setattr(request, MARK, begun)
        self._answered.clear()

    def had(self, request: Any) -> Had | None:
        """What a request had up to its last token; None: that is unknown."""
        begun = getattr(request, MARK, None)
        last_s = request.last_token_ts
        # A preempted one was not in all steps, and no step says in which it was.
        if begun is None or request.num_preemptions or not self._ends or last_s < self._ends[0]:
            return None
        at = bisect_right(self._ends, last_s) - 1
        decode_s = self._sums[at] - begun.decoded_s
        if at == len(self._ends) - 1 and self._batch:  # its last step is not divided yet
            decode_s += (last_s - self._ends[at]) / self._batch
        return Had(begun.prefill_s, max(0.0, decode_s))

    def _usual(self, sequences: int) -> float:
        """What a step of these sequences takes without prompts, by the nearest that is known."""
        if sequences in self._usual_s:
            return self._usual_s[sequences]
        if not self._usual_s:
            return 0.0
        return self._usual_s[min(self._usual_s, key=lambda known: abs(known - sequences))]

    def _prefill_s(self, request: Any, tokens: int) -> float:
        """A prompt's seconds of the steps since it was scheduled. Of several in the same steps,
        each has its part by tokens."""
        seconds, computed = 0.0, 0
        for end_s, took_s, step_tokens in reversed(self._prompts):
            if end_s <= request.scheduled_ts:
                break
            seconds += took_s
            computed += step_tokens
        return seconds * min(1.0, tokens / computed) if computed else 0.0
