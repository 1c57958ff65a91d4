"""Idempotency keys outlive the scheduler's process: one front, the witness, is told all of them.

A front tells the next scheduler of its own requests. Nobody would tell of those of a front that is
gone, which ends with the leader of a cluster when that is killed; and one that was stopped or cut
off still runs them. The witness is a front of another process than the scheduler's. Each use of a
key is told at once, before the request can have an answer. A new witness is told the earlier ones
a piece at a time. So are the rates of keys, twenty times a second: without them a take-over would
hand out a second full bucket.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from gateway.link.messages import KeyUses, Kind
from gateway.scheduling.claims import Claims
from gateway.scheduling.resumption import RememberedKey
from scheduler.limits.idempotency import REMEMBERED_S, Key, KeyUse

SINCE_VERSION = 3
"""Version of the messages from which on a front keeps keys."""
PIECE = 1000
"""Keys that are told at once, some 2 ms."""


class Post(Protocol):
    """Sends a message to a front."""

    def __call__(self, kind: Kind, number: int, payload: Any) -> None:
        """See `Connection.post`."""


class KeyWitness:
    """Tells the witness of a scheduler's keys."""

    def __init__(self, claims: Claims, clock: Callable[[], float]) -> None:
        """`clock`: monotonic seconds."""
        self._claims = claims
        self._clock = clock
        self._witness: object = None
        self._post: Post | None = None
        self._untold: deque[Key] = deque()
        self._is_new = True
        claims.on_key_use = self._changed

    def choose(self, candidates: Iterable[tuple[object, Post]]) -> None:
        """Keeps the witness if it is a candidate, and otherwise takes the first one."""
        found = dict(candidates)
        if self._post is not None and self._witness in found:
            return
        self._untold.clear()
        self._witness, self._post = next(iter(found.items()), (None, None))
        if self._post is not None:
            self._untold.extend(self._claims.idempotency_keys())
        self._is_new = True

    def tick(self) -> None:
        """Tells rates that have changed, and the next piece of what a new witness does not know."""
        if self._post is None:
            return
        now = self._clock()
        levels = self._claims.changed_levels(now, every=self._is_new)
        self._is_new = False
        if levels:
            self._post(Kind.LEVELS, 0, tuple(levels))
        if not self._untold:
            return
        keys = [self._untold.popleft() for _ in range(min(PIECE, len(self._untold)))]
        uses = ((key, self._claims.key_use(key)) for key in keys)
        used = tuple(_told(key, use, now) for key, use in uses if use is not None)
        self._post(Kind.KEYS, 0, KeyUses(used=used))

    def _changed(self, key: Key, use: KeyUse | None) -> None:
        if self._post is None:
            return
        if use is None:
            self._post(Kind.KEYS, 0, KeyUses(freed=(key,)))
        else:
            self._post(Kind.KEYS, 0, KeyUses(used=(_told(key, use, self._clock()),)))


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
