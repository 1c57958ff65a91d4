"""Idempotency keys outlive the scheduler's process: one front, the witness, is told all of them.

A front tells the next scheduler of its own requests. Nobody would tell of those of a front that is
gone, which ends with the leader of a cluster when that is killed; and one that was stopped or cut
off still runs them. The witness is a front of another process than the scheduler's. Each use of a
key is told at once, and a request of the leader's own front goes on when the witness has it
(`held_answers.py`). A new witness is told the earlier ones a piece at a time. So are the rates of
keys, twenty times a second: without them a take-over would hand out a second full bucket.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

from gateway.link.wire.connection import Connection
from gateway.link.wire.messages import KeyUses, Kind
from gateway.scheduling.claims import Claims
from gateway.scheduling.resumption import RememberedKey
from scheduler.limits.idempotency import REMEMBERED_S, Key, KeyUse

PIECE = 1000
"""Keys that are told at once, some 2 ms."""
KEEPS_SINCE_VERSION = 4
"""Version of the messages from which on a front says what it keeps, and keeps a copy of the
leader's own front."""
LONGEST_WAIT_S = 0.1
"""Longest wait for the witness, to which a tick of the host is added: a slow one holds nobody up
for longer."""


class Witness(Protocol):
    """A front that is the witness, or may be."""

    @property
    def connection(self) -> Connection:
        """Its connection."""

    @property
    def version(self) -> int:
        """Version of its messages."""


W = TypeVar("W", bound=Witness)


class KeyWitness(Generic[W]):
    """Tells the witness of a scheduler's keys."""

    def __init__(self, claims: Claims, clock: Callable[[], float]) -> None:
        """`clock`: monotonic seconds."""
        self._claims = claims
        self._clock = clock
        self.front: W | None = None
        """The witness; None: there is none."""
        self.unkept = 0
        """Requests that went on before the witness had their key."""
        self._last = self._kept = 0
        """Number of the last change that was told, and of that which the witness is known to
        have."""
        self._waiting: deque[tuple[int, float, Callable[[], None]]] = deque()
        """Number of the change that is waited for, since when, and what goes on then."""
        self._untold: deque[Key] = deque()
        self._is_new = True
        claims.on_key_use = self._changed

    def choose(self, candidates: Iterable[W]) -> None:
        """Keeps the witness if it is a candidate, and otherwise takes the first one."""
        found = list(candidates)
        if self.front is not None and self.front in found:
            return
        self._untold.clear()
        self.front = next(iter(found), None)
        if self.front is not None:
            self._untold.extend(self._claims.idempotency_keys())
        self._is_new = True
        self.kept(self.front, self._last)  # another one must be told everything first

    def kept(self, front: object, number: int) -> None:
        """A front keeps the changes up to this number."""
        if front is not self.front:
            return
        self._kept = max(self._kept, number)
        while self._waiting and self._waiting[0][0] <= self._kept:
            self._waiting.popleft()[2]()

    def when_kept(self, go_on: Callable[[], None]) -> bool:
        """Calls `go_on` once the witness has all changes so far, or after `LONGEST_WAIT_S`. Returns
        False, and does not call it, if there is nothing to wait for."""
        if self.front is None or self.front.version < KEEPS_SINCE_VERSION:
            return False
        if self._kept >= self._last:
            return False
        self._waiting.append((self._last, self._clock(), go_on))
        return True

    def tick(self) -> None:
        """Tells rates that have changed, and the next piece of what a new witness does not know.
        Ends waits that have taken too long."""
        now = self._clock()
        while self._waiting and now - self._waiting[0][1] >= LONGEST_WAIT_S:
            self.unkept += 1
            self._waiting.popleft()[2]()
        if self.front is None:
            return
        levels = self._claims.changed_levels(now, every=self._is_new)
        self._is_new = False
        if levels:
            self.front.connection.post(Kind.LEVELS, 0, tuple(levels))
        if not self._untold:
            return
        keys = [self._untold.popleft() for _ in range(min(PIECE, len(self._untold)))]
        uses = ((key, self._claims.key_use(key)) for key in keys)
        used = tuple(_told(key, use, now) for key, use in uses if use is not None)
        self._tell(KeyUses(used=used))

    def _changed(self, key: Key, use: KeyUse | None) -> None:
        if self.front is None:
            return
        if use is None:
            self._tell(KeyUses(freed=(key,)))
        else:
            self._tell(KeyUses(used=(_told(key, use, self._clock()),)))

    def _tell(self, uses: KeyUses) -> None:
        assert self.front is not None
        self._last += 1
        self.front.connection.post(Kind.KEYS, self._last, uses)


def _told(key: Key, use: KeyUse, now: float) -> RememberedKey:
    return RememberedKey(
        key_id=key[0],
        idempotency_key=key[1],
        tenant=use.tenant,
        client_id=use.request_id,
        # While its request runs, as long as after its end: it is told anew then.
        left_s=REMEMBERED_S if use.until_s is None else max(0.0, use.until_s - now),
        has_output=use.has_output,
        has_ended=use.has_ended,
    )
