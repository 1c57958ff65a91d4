"""Holds a slot of the caller's key while an RPC runs that generates nothing."""

from __future__ import annotations

from typing import Any

from gateway.doors.entry.key_limits import KeyLimits
from gateway.doors.entry.refusals import CallRefused
from gateway.doors.grpc import errors
from gateway.doors.grpc.listening.handlers import Handler, behaviour_of, with_behaviour
from gateway.doors.grpc.listening.health import INFERENCE
from gateway.doors.grpc.rpc_context import Context, current_caller

GENERATIONS = frozenset({f"/{INFERENCE}/Generate", f"/{INFERENCE}/GenerateOnce"})
"""Methods whose requests hold a slot by themselves, from submission to end."""


def holding_slot(handler: Handler, key_limits: KeyLimits) -> Handler:
    """Returns a handler that holds a slot of the caller's key while it runs."""
    inner = behaviour_of(handler)

    async def held(request: Any, context: Context) -> Any:
        caller = current_caller()
        try:
            await key_limits.take_slot(caller)
        except CallRefused as refusal:
            await errors.abort(context, errors.call_refused(refusal))
        try:
            return await inner(request, context)
        finally:
            key_limits.free_slot(caller)

    return with_behaviour(handler, held)
