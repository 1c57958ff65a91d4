"""The gRPC server, hardened against method names that grpc.aio cannot decode.

grpc.aio decodes the method of an RPC as UTF-8 in its accept loop, before any handler or interceptor
runs. Other bytes end that loop, and with it the server: one request of an unknown caller suffices.
The methods of generated services are registered, and grpc core matches those by their bytes. All
other RPCs come through `_request_call`, which is overridden here: it refuses them without looking
at their names. This uses private parts of grpcio; `test_grpc_server.py` fails if they change.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, cast

import grpc
from grpc._cython import cygrpc
from grpc.aio._server import Server

from gateway.doors.grpc.listening.caller_noise import bound_caller_noise

NO_SUCH_METHOD = "no such method: it may be of another version of the API"


class _Acceptor(cygrpc.AioServer):  # type: ignore[misc]  # grpcio's extension has no types
    """Accepts RPCs. Never hands one of an unregistered method on."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._refusals: set[asyncio.Task[None]] = set()

    async def _request_call(self) -> Any:
        """Refuses the RPCs of unregistered methods until the server stops, then raises."""
        while True:
            rpc = await super()._request_call()
            refusal = asyncio.create_task(_refuse(rpc))
            self._refusals.add(refusal)
            refusal.add_done_callback(self._refusals.discard)


async def _refuse(rpc: Any) -> None:
    context = cygrpc._ServicerContext(rpc, None, None, asyncio.get_running_loop())
    # The client may have gone away.
    with contextlib.suppress(grpc.aio.AbortError, cygrpc.ExecuteBatchError):
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, NO_SUCH_METHOD)


class _Server(Server):
    def __init__(
        self,
        options: Sequence[tuple[str, int]],
        interceptors: Sequence[grpc.aio.ServerInterceptor],
    ) -> None:
        self._loop = cygrpc.get_working_loop()
        self._server = _Acceptor(self._loop, None, (), tuple(interceptors), tuple(options), None)


def grpc_server(
    options: Sequence[tuple[str, int]], interceptors: Sequence[grpc.aio.ServerInterceptor] = ()
) -> grpc.aio.Server:
    """Returns a server for generated services, as `grpc.aio.server` does."""
    bound_caller_noise()
    return cast(grpc.aio.Server, _Server(options, interceptors))
