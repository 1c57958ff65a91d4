"""Hedging: a second branch elsewhere while the first has brought no token, within a budget.

The first branch to bring a token answers; the other is cancelled, and settled as waste. It costs
two tasks for a hedged request and none for any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from gateway.domain.generation import Chunk
from gateway.pipeline.active_request import Branch
from gateway.pipeline.attempt import Attempts
from scheduler.port import Started

StartHedge = Callable[[Branch], Awaitable[tuple[Branch, Started] | None]]
"""Starts a second branch beside the one that runs; None: none may start now."""


class _Runner:
    """A branch whose output up to the first piece is waited for in a task."""

    def __init__(self, attempts: Attempts, branch: Branch, started: Started) -> None:
        self.branch = branch
        self.branch.first_token = asyncio.get_running_loop().create_future()
        self.chunks = attempts.run(branch, started)
        self.first = asyncio.create_task(self._first(), name="moegate-hedge")

    @property
    def leads(self) -> bool:
        """Whether it has a token, or has answered without one."""
        branch = self.branch
        answers = branch.first_token_s is not None or branch.usage is not None
        return answers and not branch.abandoned

    @property
    def failed(self) -> bool:
        """Whether it is over without an answer."""
        return self.first.done() and not self.leads

    async def stop(self) -> None:
        """Ends it, if it runs; its account is then closed."""
        if not self.first.done():
            self.first.cancel()
            await asyncio.wait({self.first})
        if not self.first.cancelled():
            self.first.exception()  # told by the attempt already
        await self.chunks.aclose()

    async def _first(self) -> Chunk | None:
        return await anext(self.chunks, None)


async def hedged(
    attempts: Attempts,
    branch: Branch,
    started: Started,
    after_s: float,
    start_hedge: StartHedge,
) -> AsyncGenerator[tuple[Branch, Chunk | None], None]:
    """Output of the branch that answers, with that branch; at the end once more without a chunk.

    Raises as `Attempts.run`.
    """
    runners = [_Runner(attempts, branch, started)]
    winner: _Runner | None = None
    try:
        await _first_news(runners, after_s)
        if not runners[0].first.done() and not runners[0].leads:
            second = await start_hedge(branch)
            if second is not None:
                branch.active.racing = 2
                runners.append(_Runner(attempts, *second))
                await _race(runners)
        winner = next((r for r in runners if r.leads), None)
        if winner is None:
            (winner,) = runners  # none leads: the race ends when one is left
        await _stop_all_but(winner, runners)
        branch.active.racing = 1
        chunk = await winner.first
        async with aclosing(winner.chunks) as chunks:
            if chunk is not None:
                yield winner.branch, chunk
                async for chunk in chunks:
                    yield winner.branch, chunk
        yield winner.branch, None
    finally:
        # Where the client left in the middle of a race, the first branch is the one that counts.
        winner = winner or runners[0]
        await _stop_all_but(winner, runners)
        await winner.stop()


async def _stop_all_but(winner: _Runner, runners: list[_Runner]) -> None:
    for loser in runners:
        if loser is not winner:
            loser.branch.superseded = True
            await loser.stop()


async def _race(runners: list[_Runner]) -> None:
    """Until one leads, or one is left that may still go on alone."""
    while len(runners) > 1 and not any(runner.leads for runner in runners):
        await _first_news(runners, None)
        failed = [runner for runner in runners if runner.failed]
        # Of two that fail at the same moment, the scheduler may try the last one again.
        failed.sort(key=lambda runner: not runner.branch.abandoned)
        for runner in failed[: len(runners) - 1]:
            runners.remove(runner)
            await runner.stop()


async def _first_news(runners: list[_Runner], timeout_s: float | None) -> None:
    """Waits for a first token or an end of any."""
    waits: set[asyncio.Future[Chunk | None] | asyncio.Future[None]] = set()
    for runner in runners:
        waits.add(runner.first)
        if runner.branch.first_token is not None and not runner.branch.first_token.done():
            waits.add(runner.branch.first_token)
    await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
