"""Which requests meet which faults: deterministic in the seeds and the order of the requests."""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import blake2b

from moegate.simulated_vllm.faults.kinds import Fault, FaultKind, Faults


@dataclass(frozen=True, slots=True)
class Drawn:
    """What one request meets. `delay_s`: before anything is done for it."""

    delay_s: float = 0.0
    fault: Fault | None = None


class FaultDraws:
    """Faults in time. All times on one clock; `began_s`: when the faults were set."""

    def __init__(self, faults: Faults, began_s: float) -> None:
        self._began_s = began_s
        self._by_clock = [fault for fault in faults.faults if fault.by_clock]
        self._by_request = [fault for fault in faults.faults if not fault.by_clock]
        self._requests = [0] * len(self._by_request)
        """Requests that could meet the fault so far."""

    def draw(self, now_s: float) -> Drawn:
        """What the next request meets."""
        delay_s, met = 0.0, None
        for index, fault in enumerate(self._by_request):
            if now_s < self._began_s + fault.after_seconds:
                continue
            # Every fault counts and draws for every request, met or not: the faults before it in
            # the list do not shift its sequence.
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
        """Whether the process should be gone by the clock."""
        return any(
            fault.kind is FaultKind.CRASH and self._start_s(fault) <= now_s
            for fault in self._by_clock
        )

    def refuses(self, now_s: float) -> bool:
        """Whether the listener should be closed by the clock."""
        return any(
            fault.kind is FaultKind.REFUSE and self._start_s(fault) <= now_s < self._end_s(fault)
            for fault in self._by_clock
        )

    def next_change_s(self, now_s: float) -> float:
        """When one of these two answers changes; infinity: never."""
        times = [time for f in self._by_clock for time in (self._start_s(f), self._end_s(f))]
        return min((time for time in times if time > now_s), default=math.inf)

    def _start_s(self, fault: Fault) -> float:
        return self._began_s + fault.after_seconds

    def _end_s(self, fault: Fault) -> float:
        return math.inf if fault.seconds is None else self._start_s(fault) + fault.seconds


def is_drawn(fault: Fault, number: int) -> bool:
    """Whether the request of this number, from 0, meets the fault."""
    if fault.first is not None and number >= fault.first:
        return False
    name = f"{fault.seed}/{fault.kind}/{number}".encode()
    draw = int.from_bytes(blake2b(name, digest_size=8).digest()) / 2**64
    return draw < fault.probability
