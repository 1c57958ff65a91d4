"""Answers to the leader's own front that wait until another front has an idempotency key.

A front that lives tells the next scheduler its keys itself. The own one ends with its leader: a
request that is started, or an answer that is given, before the witness has heard of it could be
run a second time under the same key after a kill, or behind a cut network.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from gateway.link.owned import OwnedBranch, Send
from gateway.link.wire.messages import ANSWERS, Kind

_OF_BRANCHES = frozenset((*ANSWERS.values(), Kind.RESERVED))


class HeldAnswers:
    """Sends to the own front, in the order of each branch."""

    def __init__(
        self,
        send: Send,
        branches: Callable[[int], OwnedBranch | None],
        when_kept: Callable[[Callable[[], None]], bool],
    ) -> None:
        """`branches`: by number. `when_kept`: see `KeyWitness`."""
        self._send = send
        self._branches = branches
        self._when_kept = when_kept
        self._held: dict[int, list[tuple[Kind, Any]]] = {}

    def __call__(self, kind: Kind, number: int, payload: Any, *, key: str = "") -> None:
        """Sends a message now or later."""
        if kind not in _OF_BRANCHES:
            self._send(kind, number, payload, key=key)
        elif number in self._held:
            self._held[number].append((kind, payload))
        elif self._waits(kind, number) and self._when_kept(partial(self._release, number)):
            self._held[number] = [(kind, payload)]
        else:
            self._send(kind, number, payload)

    def _waits(self, kind: Kind, number: int) -> bool:
        branch = self._branches(number)
        if branch is None or not branch.owned.submission.idempotency_key:
            return False
        # The client of a whole answer gets it after the account.
        is_whole = branch.submission.request.whole_answer
        return kind is Kind.STARTED or (kind is Kind.SETTLED and is_whole)

    def _release(self, number: int) -> None:
        for kind, payload in self._held.pop(number, ()):
            self._send(kind, number, payload)
