"""What a fault does to one answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiohttp import web

from moegate.simulated_vllm.driver import EngineDriver, Watch
from moegate.simulated_vllm.failures import asked_for, draining, engine_died
from moegate.simulated_vllm.faults.driver import FaultDriver
from moegate.simulated_vllm.faults.kinds import Fault, FaultKind
from moegate.simulated_vllm.frames import DONE

_TORN = b'data: {"id":"chatcmpl-'
_TORN_CHUNK = b"%x\r\n%b" % (4 * len(_TORN), _TORN)
"""The begin of a chunk of the transfer coding that says it is longer, and of an event."""


def up_to(made: Sequence[int], most: int | None) -> Sequence[int]:
    """The tokens made by each choice, cut so that they are `most` together."""
    if most is None or sum(made) < most:
        return made
    kept = []
    for tokens in made:
        kept.append(min(tokens, most))
        most -= kept[-1]
    return kept


class Effects:
    """The fault of one request, if any, applied where the answer is written."""

    def __init__(self, fault: Fault | None, request: web.Request, faults: FaultDriver) -> None:
        self._fault = fault
        self._request = request
        self._faults = faults
        self.after_tokens = None if fault is None else fault.after_tokens or 0
        """Tokens to send before `strike`; None: all."""

    def before_work(self) -> web.Response | None:
        """Faults in place of an answer. Raises Refused, or returns what nobody gets to see."""
        fault = self._fault
        match fault.kind if fault is not None else None:
            case FaultKind.STATUS:
                assert fault is not None
                raise asked_for(fault.code or 503, fault.retry_after_seconds)
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

    def is_due(self, watch: Watch) -> bool:
        """Whether so many tokens have been made that the fault happens."""
        return self.after_tokens is not None and sum(watch.tokens) >= self.after_tokens

    async def strike(
        self, response: web.StreamResponse, driver: EngineDriver, watch: Watch
    ) -> None:
        """Ends a stream in the fault's way."""
        assert self._fault is not None
        kind = self._fault.kind
        if kind is FaultKind.SILENCE:
            # The sequence stays until the client leaves, which cancels this wait.
            await asyncio.Event().wait()
        driver.close(watch)
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

    async def strike_whole(self, driver: EngineDriver, watch: Watch) -> web.StreamResponse:
        """The same for an answer in one piece. Raises Refused."""
        assert self._fault is not None
        kind = self._fault.kind
        if kind is FaultKind.ERROR:
            raise engine_died()
        if kind is FaultKind.MALFORMED:
            return web.Response(body=b'{"id":"chatcmpl-', content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        if kind is FaultKind.CUT:
            await response.prepare(self._request)
        await self.strike(response, driver, watch)
        return response

    def _hang_up(self) -> None:
        """Closes the connection after what was written to it."""
        if self._request.transport is not None:
            self._request.transport.close()
