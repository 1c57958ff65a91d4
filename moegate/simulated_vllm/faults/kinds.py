"""Faults on purpose: what goes wrong, for which requests, and from when on."""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields


class FaultKind(enum.StrEnum):
    """What goes wrong. Texts and order of events are those of a real vLLM."""

    REFUSE = "refuse"
    """The listener closes: connections are refused, answers that run finish."""
    DELAY = "delay"
    """The whole answer, headers too, comes `seconds` late."""
    CUT = "cut"
    """The connection ends after `after_tokens`, inside a chunk."""
    SILENCE = "silence"
    """Nothing comes after `after_tokens`; the connection stays open."""
    ERROR = "error"
    """An error event after `after_tokens`, then `[DONE]`: the engine died."""
    MALFORMED = "malformed"
    """An event that is not JSON after `after_tokens`."""
    STATUS = "status"
    """HTTP `code` in place of an answer."""
    CRASH = "crash"
    """The process is gone after `after_tokens` of a request, or at `after_seconds`."""
    UNHEALTHY = "unhealthy"
    """/health and /v1/models are good, generations are a 500."""
    DRAIN = "drain"
    """SIGTERM with a shutdown timeout: answers that run finish, new requests get a 500."""


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
"""What a kind takes beside the common keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One kind of fault, and when it happens. Raises ValueError on values that make no sense.

    Attributes:
        probability: of a request to meet it.
        first: only so many requests can meet it.
        after_seconds: when it begins, from the server's start or from when faults were set.
        seed: of the draw; the same seed and order of requests, the same faults.
        after_tokens: output tokens that are sent before, of all choices together, rounded down to
            whole chunks; None is 0. An answer that is shorter goes well.
        seconds: how late (delay), or how long the listener stays closed (refuse; None: for good).
        code: HTTP status.
        retry_after_seconds: of the header; None leaves it out, but a 429 says 1.
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
        """Whether it happens to the whole server at `after_seconds`, with no request drawing it."""
        whole_server = self.kind in (FaultKind.REFUSE, FaultKind.CRASH)
        every_request = self.probability == 1.0 and self.first is None
        return whole_server and every_request and self.after_tokens is None


@dataclass(frozen=True, slots=True)
class Faults:
    """All faults of a server. A request meets at most one delay and one other fault: of each, the
    first in order that it draws."""

    faults: tuple[Fault, ...] = ()


NO_FAULTS = Faults()
