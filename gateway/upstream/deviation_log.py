"""Log lines about answers that do not keep to their protocol: few, whatever the traffic."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from gateway.domain.generation import Deviation, DeviationKind

log = logging.getLogger(__name__)

REPEAT_S = 60.0
"""Shortest interval between two lines about one deviation of one placement."""
MAX_KNOWN = 256
"""Most deviations that are told apart; a new one then waits until all are forgotten."""
_TEXTS = {
    DeviationKind.FINISH_WORD: "an unknown finish word, read as the end of the answer",
    DeviationKind.MISSING_CHOICE: "fewer choices than requested",
    DeviationKind.UNREAD_FIELD: "a field that is not understood was left out",
    DeviationKind.OUTPUT_CUT: "more output than max_output_tokens: the stream was ended",
    DeviationKind.USAGE_ZERO: "a count of 0 tokens beside content: it is estimated",
    DeviationKind.USAGE_TOO_MANY_PROMPT: "more prompt tokens than the prompt has: bounded",
    DeviationKind.USAGE_TOO_MANY_OUTPUT: "more output tokens than requested: bounded",
    DeviationKind.USAGE_TOO_FEW_PROMPT: "fewer prompt tokens than the prompt has: estimated",
    DeviationKind.USAGE_TOO_FEW_OUTPUT: "fewer output tokens than came: estimated",
}


class DeviationLog:
    """Writes the lines. `clock`: monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._told: dict[tuple[str, DeviationKind], tuple[float, int]] = {}

    def record(self, placement: str, deviations: Iterable[Deviation]) -> None:
        """Records the deviations of one answer."""
        for deviation in deviations:
            key, now_s = (placement, deviation.kind), self._clock()
            told_s, untold = self._told.get(key, (-REPEAT_S, 0))
            if now_s - told_s < REPEAT_S:
                self._told[key] = (told_s, untold + 1)
                continue
            if key not in self._told and len(self._told) >= MAX_KNOWN:
                self._told.clear()
            self._told[key] = (now_s, 0)
            detail = f" ({deviation.detail})" if deviation.detail else ""
            more = f", and {untold} times more since the last line" if untold else ""
            log.warning("%s: %s%s%s", placement, _TEXTS[deviation.kind], detail, more)
