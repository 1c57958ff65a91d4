"""The gRPC server, with an accept loop of its own.

That of grpc.aio has two faults. It decodes the method of an RPC as UTF-8 before any handler or
interceptor runs: other bytes end the loop, and with it the server, so that one request of an
unknown caller suffices. And it waits for the methods of all services together, which takes an
eighth of the CPU of a small RPC. Here each registered method is accepted by a task of its own,
whose name is known; grpc core matches it by its bytes. RPCs of other methods are refused without a
look at their names.

This uses private parts of grpcio. If they change, `start` raises and `test_grpc_server.py` fails.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from typing import Any, cast

import grpc
from grpc._cython import cygrpc
from grpc.aio._server import Server

from gateway.doors.entry.caller_noise import GRPC_LOGGER, bound_caller_noise

NO_SUCH_METHOD = "no such method: it may be of another version of the API"


class _Acceptor(cygrpc.AioServer):  # type: ignore[misc]  # grpcio's extension has no types
    """Accepts RPCs. `interceptors` as in `grpc.aio.server`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: Sequence[tuple[str, int]],
        interceptors: Sequence[grpc.aio.ServerInterceptor],
    ) -> None:
        super().__init__(loop, None, (), tuple(interceptors), tuple(options), None)
        self._event_loop = loop
        self._rpc_interceptors = tuple(interceptors)
        self._methods: dict[str, Any] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def accepts(self) -> bool:
        """Whether grpc.aio uses the accept loop of this class."""
        return bool(self._tasks)

    def add_registered_method_handlers(self, method_handlers: dict[str, Any]) -> None:
        """Registers methods by their full names."""
        super().add_registered_method_handlers(method_handlers)
        self._methods |= method_handlers

    def _make_request_call_future(self, method: bytes | None) -> asyncio.Future[None]:
        """Accepts the RPCs of a method, or of all that are not registered (None). The future ends
        when the server stops; grpc.aio calls this again if it still runs."""
        ended = self._event_loop.create_future()
        self._run(self._accept(method, ended))
        return ended

    async def _accept(self, method: bytes | None, ended: asyncio.Future[None]) -> None:
        loop = self._event_loop
        name = "" if method is None else method.decode()
        resolver = cygrpc._MethodResolver([], self._methods)
        try:
            while True:
                if method is None:
                    self._run(_refuse(await self._request_call()))
                    continue
                rpc = await self._request_registered_call(method)
                rpc_handled = cygrpc._handle_rpc(
                    name, resolver, self._rpc_interceptors, rpc, loop, False
                )
                # Begins the task that handles the RPC when it listens for its cancellation.
                self._run(cygrpc._schedule_rpc_coro(rpc_handled, rpc, loop, name))
        except Exception as error:
            if not ended.done():
                ended.set_exception(error)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._event_loop.create_task(work)
        self._tasks.add(task)  # the loop itself keeps no reference
        task.add_done_callback(self._tasks.discard)


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
        self._server = _Acceptor(self._loop, options, interceptors)

    async def start(self) -> None:
        """Starts to accept RPCs. Raises RuntimeError if grpcio does not fit."""
        await super().start()
        if not self._server.accepts:
            await self.stop(0)
            raise RuntimeError(f"grpcio {grpc.__version__} accepts RPCs in a way unknown here")


def grpc_server(
    options: Sequence[tuple[str, int]], interceptors: Sequence[grpc.aio.ServerInterceptor] = ()
) -> grpc.aio.Server:
    """Returns a server for generated services, as `grpc.aio.server` does."""
    bound_caller_noise(GRPC_LOGGER)
    return cast(grpc.aio.Server, _Server(options, interceptors))
