"""Server interceptor: finds the caller of an RPC before its request is received.

An RPC without a known key, or beyond a bound, gets a handler that refuses it without receiving the
request. All others get their request as raw bytes, which are parsed within the bounds of the key.
"""

from __future__ import annotations

import grpc

from gateway.auth.authenticator import Unauthenticated
from gateway.doors.entry.active_settings import ActiveSettings
from gateway.doors.entry.calls_in_progress import CallsInProgress
from gateway.doors.entry.key_limits import KeyLimits
from gateway.doors.entry.metadata_size import metadata_bytes
from gateway.doors.entry.refusals import CallRefused
from gateway.doors.entry.tenant_calls import TenantCalls
from gateway.doors.grpc import errors
from gateway.doors.grpc.listening.handlers import Continuation, Handler, WrappedHandlers
from gateway.doors.grpc.listening.held_slots import GENERATIONS, holding_slot
from gateway.doors.grpc.listening.open_rpcs import OURS
from gateway.doors.grpc.listening.request_bounds import bounded, refusing
from gateway.doors.grpc.rpc_context import (
    CURRENT_RPC,
    AuthenticatedRpc,
    Metadata,
)


class KeyCheck(grpc.aio.ServerInterceptor):
    """Authenticates every RPC of the moegate services, takes it from the limits of its key, and
    bounds how many are in progress and what each may send."""

    def __init__(
        self,
        active: ActiveSettings,
        key_limits: KeyLimits,
        in_progress: CallsInProgress,
        tenant_calls: TenantCalls,
    ) -> None:
        self._active = active
        self._key_limits = key_limits
        self._in_progress = in_progress
        self._tenant_calls = tenant_calls
        self._handlers = WrappedHandlers(self._wrap)

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """Returns the handler of the method, or one that refuses."""
        if not handler_call_details.method.startswith(OURS):
            return await continuation(handler_call_details)
        handler = await self._handlers.find(continuation, handler_call_details)
        if handler is None:
            return None
        try:
            await self._begin(tuple(handler_call_details.invocation_metadata or ()))
        except CallRefused as refusal:
            return refusing(errors.call_refused(refusal))
        except errors.RpcError as error:
            return refusing(error)
        return handler

    def _wrap(self, method: str, registered: Handler) -> Handler:
        handler = bounded(registered, lambda: self._active.config.limits, needs_key=True)
        return handler if method in GENERATIONS else holding_slot(handler, self._key_limits)

    async def _begin(self, metadata: Metadata) -> None:
        """Finds the caller and sets the current RPC. Raises RpcError or CallRefused."""
        self._in_progress.check_server()
        size, most = metadata_bytes(metadata), self._active.config.limits.metadata_bytes
        if size > most:
            # Not RESOURCE_EXHAUSTED, which clients send again.
            text = f"{size} bytes: at most {most}, limits.metadata_bytes: send less of it"
            raise errors.invalid([("metadata", text)], "METADATA_TOO_LARGE")
        try:
            caller = self._active.authenticator.authenticate(metadata)
        except Unauthenticated as error:
            raise errors.unauthenticated(str(error)) from None
        self._in_progress.begin()
        await self._tenant_calls.begin(caller.tenant, caller.tenant_rpcs)
        await self._key_limits.take_request(caller)
        CURRENT_RPC.set(AuthenticatedRpc(caller, metadata))
