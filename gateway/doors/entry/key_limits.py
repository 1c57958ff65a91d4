"""Takes every call from the limits of its key, whatever becomes of it.

Each call is one request of `requests_per_minute`, taken before its body is received, so that a
malformed one counts too and a key at its limit costs no parsing. While it runs, each call holds one
of `concurrent_requests`. A generation takes that one, and its tokens, when it is submitted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from gateway.auth.authenticator import Caller
from gateway.doors.entry.refusals import CallRefused, scheduler_away
from gateway.doors.entry.slots import take_slot
from scheduler.contract import RefusalReason
from scheduler.limits.rate_limit import Refusal
from scheduler.port import SchedulerAway, SchedulerPort, SlotFreed

log = logging.getLogger(__name__)

LOG_S = 60.0
"""Seconds between two log lines about the refusals of one key."""
MOST_NOTICED = 4096
"""Bound of the keys whose refusals are counted for the log."""


class KeyLimits:
    """The limits of all keys, which the scheduler keeps."""

    def __init__(
        self, port: SchedulerPort, clock: Callable[[], float], refused: Callable[[str], None]
    ) -> None:
        """`clock`: monotonic seconds. `refused` receives the reason of every refusal."""
        self._port = port
        self._clock = clock
        self._refused = refused
        self._noticed: dict[str, tuple[float, int]] = {}
        """Time of the last log line, and refusals since then, by key id."""

    async def take_request(self, caller: Caller) -> None:
        """Takes a request from the key's limit. Raises CallRefused."""
        if caller.limits.requests_per_minute is None:
            return  # no question between processes
        try:
            refusal = await self._port.take_request(caller.key_id, caller.limits)
        except SchedulerAway:
            raise scheduler_away() from None
        if refusal is not None:
            raise self._error(caller, refusal)

    async def take_slot(self, caller: Caller) -> None:
        """Takes a slot of the key, until `free_slot`. Raises CallRefused."""
        refusal = await take_slot(self._port, caller.key_id, caller.limits)
        if refusal is not None:
            raise self._error(caller, refusal)

    def free_slot(self, caller: Caller) -> None:
        """Gives a slot back."""
        self._port.send(SlotFreed(key_id=caller.key_id))

    def _error(self, caller: Caller, refusal: Refusal) -> CallRefused:
        """The refusal of a key that is at one of its limits. Counts and logs it."""
        self._refused(RefusalReason.KEY_LIMIT.name)
        self._notice(caller, refusal)
        text = f"key {caller.key_id} is at its limit {refusal.limit}"
        return CallRefused(RefusalReason.KEY_LIMIT.name, text, refusal.retry_after_s)

    def _notice(self, caller: Caller, refusal: Refusal) -> None:
        """Logs that a key is refused, once in `LOG_S`: a client may retry a thousand times."""
        now = self._clock()
        since_s, count = self._noticed.get(caller.key_id, (float("-inf"), 0))
        if now - since_s < LOG_S:
            self._noticed[caller.key_id] = (since_s, count + 1)
            return
        if len(self._noticed) >= MOST_NOTICED:
            self._noticed.clear()
        self._noticed[caller.key_id] = (now, 0)
        log.info(
            "key %s of tenant %s is at its limit %s; %d calls refused since the last such line",
            *(caller.key_id, caller.tenant, refusal.limit, count + 1),
        )
