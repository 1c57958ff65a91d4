"""Counts the calls in progress at all doors of a front, and refuses those that are too many.

grpc core has a queue of its own in front of the gateway and cancels what is too much for it, in no
log and no metric. The gRPC door raises its limits out of the way, and these bounds take its place:
of the server, and of the calls that need no key (`tenant_calls.py` bounds those of each tenant).
They are read for each call, so that a reload holds at once. A call is an RPC, or a request to an
HTTP door.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Callable

from gateway.config.limits import LimitsConfig
from gateway.doors.entry.refusals import CallRefused

RETRY_S = (0.5, 1.5)
"""Bounds of the time after which a refused call may come again. It is random, so that a burst does
not come again as one."""
SERVER, KEYLESS = "SERVER_RPCS", "KEYLESS_RPCS"
"""Reasons of refusals."""


class CallsInProgress:
    """The counts. `limits`: those in force. `refused` receives the reason of every refusal."""

    def __init__(self, limits: Callable[[], LimitsConfig], refused: Callable[[str], None]) -> None:
        self._limits = limits
        self._refused = refused
        self._all = 0
        self._keyless = 0

    @property
    def total(self) -> int:
        """Calls in progress."""
        return self._all

    def check_server(self) -> None:
        """Raises CallRefused if the server has as many calls as it may."""
        most = self._limits().rpcs
        if self._all >= most:
            raise self._refusal(SERVER, f"{most} RPCs are in progress here: limits.rpcs")

    def begin(self) -> None:
        """Counts a call with a key until the current task ends."""
        self._count(keyless=0)

    def begin_keyless(self) -> None:
        """Counts a call that needs no key until the current task ends. Raises CallRefused, and then
        counts nothing."""
        most = self._limits().keyless_rpcs
        if self._keyless >= most:
            text = f"{most} RPCs without a key are in progress here: limits.keyless_rpcs"
            raise self._refusal(KEYLESS, text)
        self._count(keyless=1)

    def _count(self, keyless: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._all += 1
        self._keyless += keyless
        task.add_done_callback(functools.partial(self._end, keyless))

    def _end(self, keyless: int, _: asyncio.Task[object]) -> None:
        self._all -= 1
        self._keyless -= keyless

    def _refusal(self, reason: str, text: str) -> CallRefused:
        self._refused(reason)
        return CallRefused(reason, text, random.uniform(*RETRY_S))
