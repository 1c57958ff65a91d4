"""Hedging: a second leg elsewhere while the first has brought no token, within a budget.

The first leg to bring a token answers; the other is cancelled, and settled as waste. It costs two
tasks for a hedged request and none for any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from gateway.domain.generation import Chunk
from gateway.pipeline.attempt import Attempts
from gateway.pipeline.flight import Leg
from scheduler.contract import Start

Rival = Callable[[Leg, Start], tuple[Leg, Start] | None]
"""Starts a second leg beside the one that runs; None: none may start now."""


class _Runner:
    """A leg whose output up to the first piece is waited for in a task."""

    def __init__(self, attempts: Attempts, leg: Leg, action: Start) -> None:
        self.leg = leg
        self.action = action
        self.leg.first_token = asyncio.get_running_loop().create_future()
        self.chunks = attempts.run(leg, action)
        self.first = asyncio.create_task(self._first(), name="moegate-hedge")

    @property
    def leads(self) -> bool:
        """Whether it has a token, or has answered without one."""
        return self.leg.first_token_s is not None or self.leg.usage is not None

    @property
    def failed(self) -> bool:
        """Whether it is over without an answer."""
        return self.first.done() and not self.leads

    async def stop(self) -> None:
        """Ends it, if it runs; its account is then closed."""
        self.first.cancel()
        await asyncio.wait({self.first})
        if not self.first.cancelled():
            self.first.exception()  # told by the attempt already
        await self.chunks.aclose()

    async def _first(self) -> Chunk | None:
        return await anext(self.chunks, None)


async def hedged(
    attempts: Attempts, leg: Leg, action: Start, after_s: float, rival: Rival
) -> AsyncGenerator[tuple[Leg, Start, Chunk | None], None]:
    """Output of the leg that answers, with that leg and what the scheduler said of it; at the end
    once more without a chunk. Raises as `Attempts.run`."""
    runners = [_Runner(attempts, leg, action)]
    winner: _Runner | None = None
    try:
        await _first_news(runners, after_s)
        if not runners[0].first.done() and not runners[0].leads:
            second = rival(leg, action)
            if second is not None:
                leg.flight.racing = 2
                runners.append(_Runner(attempts, *second))
                await _race(runners)
        winner = next((r for r in runners if r.leads), None)
        if winner is None:
            (winner,) = runners  # nobody leads: the race ends when one is left
        await _stop_all_but(winner, runners)
        leg.flight.racing = 1
        chunk = await winner.first
        async with aclosing(winner.chunks) as chunks:
            if chunk is not None:
                yield winner.leg, winner.action, chunk
                async for chunk in chunks:
                    yield winner.leg, winner.action, chunk
        yield winner.leg, winner.action, None
    finally:
        # Where the client left in the middle of a race, the first leg is the one that counts.
        winner = winner or runners[0]
        await _stop_all_but(winner, runners)
        await winner.stop()


async def _stop_all_but(winner: _Runner, runners: list[_Runner]) -> None:
    for loser in runners:
        if loser is not winner:
            loser.leg.superseded = True
            await loser.stop()


async def _race(runners: list[_Runner]) -> None:
    """Until one leads, or one is left that may still go on alone."""
    while len(runners) > 1 and not any(runner.leads for runner in runners):
        await _first_news(runners, None)
        for runner in [runner for runner in runners if runner.failed]:
            if len(runners) > 1:
                runners.remove(runner)
                runner.leg.flight.racing = len(runners)
                await runner.stop()


async def _first_news(runners: list[_Runner], timeout_s: float | None) -> None:
    """Waits for a first token or an end of any."""
    waits: set[asyncio.Future[Chunk | None] | asyncio.Future[None]] = set()
    for runner in runners:
        waits.add(runner.first)
        if runner.leg.first_token is not None and not runner.leg.first_token.done():
            waits.add(runner.leg.first_token)
    await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
