"""Takes every RPC from the limits of its key, whatever becomes of it.

Each RPC is one request of `requests_per_minute`, taken before its message is received, so that a
malformed message counts too and a key at its limit costs no parsing. While it runs, each RPC holds
one of `concurrent_requests`. A generation takes that one, and its tokens, when it is submitted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from gateway.auth.authenticator import Caller
from gateway.doors.grpc import errors
from gateway.doors.grpc.listening.handlers import Handler, behaviour_of, with_behaviour
from gateway.doors.grpc.listening.health import INFERENCE
from gateway.doors.grpc.rpc_context import Context, current_caller
from scheduler.contract import RefusalReason
from scheduler.limits.rate_limit import Refusal
from scheduler.port import SchedulerPort, SlotFreed

log = logging.getLogger(__name__)

LOG_S = 60.0
"""Seconds between two log lines about the refusals of one key."""
MOST_NOTICED = 4096
"""Bound of the keys whose refusals are counted for the log."""
GENERATIONS = frozenset({f"/{INFERENCE}/Generate", f"/{INFERENCE}/GenerateOnce"})
"""Methods whose requests hold a slot by themselves, from submission to end."""


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
        """Takes a request from the key's limit. Raises RpcError (RESOURCE_EXHAUSTED)."""
        refusal = await self._port.take_request(caller.key_id, caller.limits)
        if refusal is not None:
            raise self._error(caller, refusal)

    async def take_slot(self, caller: Caller) -> None:
        """Takes a slot of the key, until `free_slot`. Raises RpcError (RESOURCE_EXHAUSTED)."""
        refusal = await self._port.take_slot(caller.key_id, caller.limits)
        if refusal is not None:
            raise self._error(caller, refusal)

    def free_slot(self, caller: Caller) -> None:
        """Gives a slot back."""
        self._port.send(SlotFreed(key_id=caller.key_id))

    def _error(self, caller: Caller, refusal: Refusal) -> errors.RpcError:
        """RESOURCE_EXHAUSTED: the key is at one of its limits. Counts and logs the refusal."""
        self._refused(RefusalReason.KEY_LIMIT.name)
        self._notice(caller, refusal)
        text = f"key {caller.key_id} is at its limit {refusal.limit}"
        return errors.exhausted(text, RefusalReason.KEY_LIMIT.name, refusal.retry_after_s)

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
            "key %s of tenant %s is at its limit %s; %d RPCs refused since the last such line",
            *(caller.key_id, caller.tenant, refusal.limit, count + 1),
        )


def holding_slot(handler: Handler, key_limits: KeyLimits) -> Handler:
    """Returns a handler that holds a slot of the caller's key while it runs."""
    inner = behaviour_of(handler)

    async def held(request: Any, context: Context) -> Any:
        caller = current_caller()
        try:
            await key_limits.take_slot(caller)
        except errors.RpcError as error:
            await errors.abort(context, error)
        try:
            return await inner(request, context)
        finally:
            key_limits.free_slot(caller)

    return with_behaviour(handler, held)
