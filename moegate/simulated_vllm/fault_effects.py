"""Applies a fault to the answer of one request."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiohttp import web

from moegate.simulated_vllm.driver import EngineDriver, RequestProgress
from moegate.simulated_vllm.failures import draining, engine_died, status_fault
from moegate.simulated_vllm.fault_driver import FaultDriver
from moegate.simulated_vllm.faults.kinds import Fault, FaultKind
from moegate.simulated_vllm.frames import DONE

_TORN = b'data: {"id":"chatcmpl-'
_TORN_CHUNK = b"%x\r\n%b" % (4 * len(_TORN), _TORN)
"""The beginning of a chunk of the transfer coding, with a length that the chunk never reaches."""


def truncated(made: Sequence[int], most: int | None) -> Sequence[int]:
    """Truncates the tokens of the choices, in their order, to `most` tokens in all."""
    if most is None or sum(made) < most:
        return made
    kept = []
    for tokens in made:
        kept.append(min(tokens, most))
        most -= kept[-1]
    return kept


class FaultEffects:
    """The fault of one request, if any. The server calls it where it writes the answer."""

    def __init__(self, fault: Fault | None, request: web.Request, faults: FaultDriver) -> None:
        self._fault = fault
        self._request = request
        self._faults = faults
        self.after_tokens = None if fault is None else fault.after_tokens or 0
        """Tokens to send before `break_stream`; None: the whole answer."""

    def instead_of_work(self) -> web.Response | None:
        """Applies a fault that replaces the answer.

        Raises Refused with the error to send. Returns a response if the connection is closed
        already, and None if the request shall be served.
        """
        fault = self._fault
        match fault.kind if fault is not None else None:
            case FaultKind.STATUS:
                assert fault is not None
                raise status_fault(fault.code or 503, fault.retry_after_seconds)
            case FaultKind.UNHEALTHY:
                raise engine_died()
            case FaultKind.DRAIN:
                raise draining()
            case FaultKind.REFUSE:
                assert fault is not None
                self._faults.refuse(fault)
                self._hang_up()
                return web.Response()
        return None

    def is_due(self, progress: RequestProgress) -> bool:
        """Whether enough tokens have been generated for the fault to happen."""
        return self.after_tokens is not None and sum(progress.tokens) >= self.after_tokens

    async def break_stream(
        self, response: web.StreamResponse, driver: EngineDriver, progress: RequestProgress
    ) -> None:
        """Ends a stream as the fault demands."""
        assert self._fault is not None
        kind = self._fault.kind
        if kind is FaultKind.SILENCE:
            # The sequence stays in the engine until the client disconnects, which cancels this
            # wait.
            await asyncio.Event().wait()
        driver.close(progress)
        match kind:
            case FaultKind.CUT:
                if self._request.transport is not None:
                    self._request.transport.write(_TORN_CHUNK)
                self._hang_up()
            case FaultKind.ERROR:
                await response.write(b"data: " + engine_died().body + b"\n\n" + DONE)
            case FaultKind.MALFORMED:
                await response.write(_TORN + b"\n\n" + DONE)
            case FaultKind.CRASH:
                await self._faults.crash()

    async def replace_answer(
        self, driver: EngineDriver, progress: RequestProgress
    ) -> web.StreamResponse:
        """Ends an answer that is not streamed as the fault demands. Raises Refused."""
        assert self._fault is not None
        kind = self._fault.kind
        if kind is FaultKind.ERROR:
            raise engine_died()
        if kind is FaultKind.MALFORMED:
            return web.Response(body=b'{"id":"chatcmpl-', content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        if kind is FaultKind.CUT:
            await response.prepare(self._request)
        await self.break_stream(response, driver, progress)
        return response

    def _hang_up(self) -> None:
        """Closes the connection after the bytes that were written to it."""
        if self._request.transport is not None:
            self._request.transport.close()
