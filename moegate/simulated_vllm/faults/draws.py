"""Draws the faults of each request. The seeds and the order of the requests determine every
draw."""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import blake2b

from moegate.simulated_vllm.faults.kinds import Fault, FaultKind, Faults


@dataclass(frozen=True, slots=True)
class Drawn:
    """The faults of one request. `delay_s`: delay before the server does anything for it."""

    delay_s: float = 0.0
    fault: Fault | None = None


class FaultDraws:
    """Draws faults over time. All times are on one clock; `began_s`: when the faults were set."""

    def __init__(self, faults: Faults, began_s: float) -> None:
        self._began_s = began_s
        self._by_clock = [fault for fault in faults.faults if fault.by_clock]
        self._by_request = [fault for fault in faults.faults if not fault.by_clock]
        self._requests = [0] * len(self._by_request)
        """Requests so far for which the fault was drawn."""

    def draw(self, now_s: float) -> Drawn:
        """Draws the faults of the next request."""
        delay_s, met = 0.0, None
        for index, fault in enumerate(self._by_request):
            if now_s < self._began_s + fault.after_seconds:
                continue
            # Every fault is drawn for every request, whatever the draws of the others: a change of
            # one fault does not shift the sequence of another.
            number = self._requests[index]
            self._requests[index] += 1
            if not is_drawn(fault, number):
                continue
            if fault.kind is FaultKind.DELAY:
                delay_s = delay_s or fault.seconds or 0.0
            else:
                met = met or fault
        return Drawn(delay_s, met)

    def is_crash_due(self, now_s: float) -> bool:
        """Whether a crash by the clock is due."""
        return any(
            fault.kind is FaultKind.CRASH and self._start_s(fault) <= now_s
            for fault in self._by_clock
        )

    def refuses(self, now_s: float) -> bool:
        """Whether the clock says that the listener is closed."""
        return any(
            fault.kind is FaultKind.REFUSE and self._start_s(fault) <= now_s < self._end_s(fault)
            for fault in self._by_clock
        )

    def next_change_s(self, now_s: float) -> float:
        """Next time at which `is_crash_due` or `refuses` changes; infinity: never."""
        times = [time for f in self._by_clock for time in (self._start_s(f), self._end_s(f))]
        return min((time for time in times if time > now_s), default=math.inf)

    def _start_s(self, fault: Fault) -> float:
        return self._began_s + fault.after_seconds

    def _end_s(self, fault: Fault) -> float:
        return math.inf if fault.seconds is None else self._start_s(fault) + fault.seconds


def is_drawn(fault: Fault, number: int) -> bool:
    """Whether the fault is drawn for the request of this number, counted from 0."""
    if fault.first is not None and number >= fault.first:
        return False
    name = f"{fault.seed}/{fault.kind}/{number}".encode()
    draw = int.from_bytes(blake2b(name, digest_size=8).digest()) / 2**64
    return draw < fault.probability
