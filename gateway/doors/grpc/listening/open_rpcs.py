"""Server interceptor: bounds the RPCs that need no key, which are health checks and reflection."""

from __future__ import annotations

from collections.abc import Callable

import grpc

from gateway.config.limits import LimitsConfig
from gateway.doors.entry.calls_in_progress import CallsInProgress
from gateway.doors.entry.refusals import CallRefused
from gateway.doors.grpc import errors
from gateway.doors.grpc.listening.handlers import Continuation, Handler, WrappedHandlers
from gateway.doors.grpc.listening.request_bounds import bounded, refusing

OURS = "/moegate."
"""Prefix of the methods that need a key."""


class OpenRpcs(grpc.aio.ServerInterceptor):
    """Bounds how many RPCs without a key are in progress, and what each may send."""

    def __init__(self, limits: Callable[[], LimitsConfig], in_progress: CallsInProgress) -> None:
        """`limits`: those in force."""
        self._in_progress = in_progress
        self._handlers = WrappedHandlers(
            lambda _, registered: bounded(registered, limits, needs_key=False)
        )

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """Returns the handler of the method, or one that refuses."""
        if handler_call_details.method.startswith(OURS):
            return await continuation(handler_call_details)
        handler = await self._handlers.find(continuation, handler_call_details)
        if handler is None:
            return None
        try:
            self._in_progress.check_server()
            self._in_progress.begin_keyless()
        except CallRefused as refusal:
            return refusing(errors.call_refused(refusal))
        return handler
