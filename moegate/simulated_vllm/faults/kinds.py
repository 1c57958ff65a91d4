"""Injected faults: their kinds, and which requests they affect from which time on."""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields


class FaultKind(enum.StrEnum):
    """Kinds of faults. Error texts and the order of events are those of a real vLLM."""

    REFUSE = "refuse"
    """The listener closes: new connections are refused, running answers finish."""
    DELAY = "delay"
    """The whole answer, with its headers, is `seconds` late."""
    CUT = "cut"
    """The connection ends after `after_tokens`, inside a chunk."""
    SILENCE = "silence"
    """Nothing is sent after `after_tokens`; the connection stays open."""
    ERROR = "error"
    """An error event after `after_tokens`, then `[DONE]`: the engine died."""
    MALFORMED = "malformed"
    """An event that is not JSON after `after_tokens`."""
    STATUS = "status"
    """HTTP `code` in place of an answer."""
    CRASH = "crash"
    """The process ends after `after_tokens` of a request, or at `after_seconds`."""
    UNHEALTHY = "unhealthy"
    """/health and /v1/models succeed, generations fail with a 500."""
    DRAIN = "drain"
    """SIGTERM with a shutdown timeout: running answers finish, new requests get a 500."""


COMMON_KEYS = ("probability", "first", "after_seconds", "seed")
OWN_KEYS: dict[FaultKind, tuple[str, ...]] = {
    FaultKind.REFUSE: ("seconds",),
    FaultKind.DELAY: ("seconds",),
    FaultKind.CUT: ("after_tokens",),
    FaultKind.SILENCE: ("after_tokens",),
    FaultKind.ERROR: ("after_tokens",),
    FaultKind.MALFORMED: ("after_tokens",),
    FaultKind.STATUS: ("code", "retry_after_seconds"),
    FaultKind.CRASH: ("after_tokens",),
    FaultKind.UNHEALTHY: (),
    FaultKind.DRAIN: (),
}
"""Keys of each kind beside `COMMON_KEYS`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault. Raises ValueError if its values contradict each other.

    Attributes:
        probability: probability that a request is affected.
        first: only the first so many requests can be affected.
        after_seconds: start of the fault, counted from the time at which the faults were set.
        seed: seed of the draws; the same seed and order of requests give the same faults.
        after_tokens: output tokens that are sent before the fault, of all choices together, rounded
            down to whole chunks; None is 0. A shorter answer is not affected.
        seconds: the delay (delay), or how long the listener stays closed (refuse; None: for good).
        code: HTTP status.
        retry_after_seconds: value of Retry-After; None: no header, but 1 for a 429.
    """

    kind: FaultKind
    probability: float = 1.0
    first: int | None = None
    after_seconds: float = 0.0
    seed: int = 0
    after_tokens: int | None = None
    seconds: float | None = None
    code: int | None = None
    retry_after_seconds: int | None = None

    def __post_init__(self) -> None:
        known = (*OWN_KEYS[self.kind], *COMMON_KEYS)
        for field in fields(self)[1:]:
            if field.name not in known and getattr(self, field.name) is not None:
                raise ValueError(f"{self.kind} takes no {field.name}, only {', '.join(known)}")
        if not 0.0 < self.probability <= 1.0:
            raise ValueError(f"probability must be above 0 and at most 1, not {self.probability}")
        if self.first is not None and self.first < 1:
            raise ValueError(f"first must be at least 1 request, not {self.first}")
        for name in ("after_seconds", "after_tokens", "retry_after_seconds"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"{name} must not be negative or endless, but is {value}")
        if self.seconds is not None and not 0.0 < self.seconds < float("inf"):
            raise ValueError(f"seconds must be above 0 and not endless, but is {self.seconds}")
        if self.kind is FaultKind.DELAY and self.seconds is None:
            raise ValueError("delay needs seconds, as in delay:seconds=2")
        if self.kind is FaultKind.STATUS and self.code is None:
            raise ValueError("status needs a code, as in status:code=503")
        if self.code is not None and not 400 <= self.code <= 599:
            raise ValueError(f"code must be an error status, 400 to 599, not {self.code}")
        if self.kind is FaultKind.CRASH and self.by_clock and self.after_seconds == 0.0:
            raise ValueError(
                "crash needs after_tokens or after_seconds, as in crash:after_tokens=9"
            )

    @property
    def by_clock(self) -> bool:
        """Whether the fault affects the whole server at `after_seconds`, independent of
        requests."""
        whole_server = self.kind in (FaultKind.REFUSE, FaultKind.CRASH)
        every_request = self.probability == 1.0 and self.first is None
        return whole_server and every_request and self.after_tokens is None


@dataclass(frozen=True, slots=True)
class Faults:
    """All faults of a server.

    At most one delay and one other fault affect a request: the first of each that is drawn.
    """

    faults: tuple[Fault, ...] = ()


NO_FAULTS = Faults()
