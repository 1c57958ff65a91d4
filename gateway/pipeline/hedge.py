"""Hedging: starts a second branch on another placement if the first token is slow.

The first branch with a token answers. The other branch is cancelled and settled as waste. Hedging
needs two tasks per hedged request. The scheduler bounds the number of hedges.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing

from gateway.domain.generation import Chunk
from gateway.pipeline.active_request import Branch
from gateway.pipeline.attempt import Attempts
from scheduler.port import Started

StartHedge = Callable[[Branch], Awaitable[tuple[Branch, Started] | None]]
"""Starts a hedge beside the given branch. Returns None if no hedge may start now."""


class _Runner:
    """A branch whose first chunk is awaited in a task."""

    def __init__(self, attempts: Attempts, branch: Branch, started: Started) -> None:
        self.branch = branch
        self.branch.first_token = asyncio.get_running_loop().create_future()
        self.chunks = attempts.run(branch, started)
        self.first = asyncio.create_task(self._first(), name="moegate-hedge")

    @property
    def leads(self) -> bool:
        """Whether the branch has a token, or has completed without one, and is not abandoned."""
        branch = self.branch
        answers = branch.first_token_s is not None or branch.usage is not None
        return answers and not branch.abandoned

    @property
    def failed(self) -> bool:
        """Whether the branch has ended without an answer."""
        return self.first.done() and not self.leads

    async def _first(self) -> Chunk | None:
        return await anext(self.chunks, None)


async def hedged(
    attempts: Attempts,
    branch: Branch,
    started: Started,
    after_s: float,
    start_hedge: StartHedge,
) -> AsyncGenerator[tuple[Branch, Chunk | None], None]:
    """Yields pairs of the answering branch and a chunk. The last pair has no chunk.

    `after_s`: seconds without a token before the hedge starts. Raises the exceptions of
    `Attempts.run`.
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
            (winner,) = runners  # no branch leads, and one is left
        await _stop(_supersede_all_but(winner, runners))
        branch.active.racing = 1
        chunk = await winner.first
        async with aclosing(winner.chunks) as chunks:
            if chunk is not None:
                yield winner.branch, chunk
                async for chunk in chunks:
                    yield winner.branch, chunk
        yield winner.branch, None
    finally:
        # If the client leaves during a race, the first branch counts as the winner.
        winner = winner or runners[0]
        _supersede_all_but(winner, runners)
        await _stop(runners)


def _supersede_all_but(winner: _Runner, runners: list[_Runner]) -> list[_Runner]:
    """Marks the losers, and returns them."""
    losers = [runner for runner in runners if runner is not winner]
    for loser in losers:
        loser.branch.superseded = True
    return losers


async def _stop(runners: list[_Runner]) -> None:
    """Cancels branches and settles their attempts, even if this is cancelled meanwhile: no upstream
    call may outlive its request."""
    async with AsyncExitStack() as stack:
        for runner in runners:
            stack.push_async_callback(runner.chunks.aclose)
            runner.first.cancel()
        pending = {runner.first for runner in runners if not runner.first.done()}
        cancelled: asyncio.CancelledError | None = None
        while pending:
            try:
                _, pending = await asyncio.wait(pending)
            except asyncio.CancelledError as error:
                cancelled = error
        for runner in runners:
            if not runner.first.cancelled():
                runner.first.exception()  # the attempt has reported it already
        if cancelled is not None:
            raise cancelled


async def _race(runners: list[_Runner]) -> None:
    """Waits until one branch leads or only one is left."""
    while len(runners) > 1 and not any(runner.leads for runner in runners):
        await _first_news(runners, None)
        failed = [runner for runner in runners if runner.failed]
        # If two branches fail at the same moment, the scheduler may retry the last one.
        failed.sort(key=lambda runner: not runner.branch.abandoned)
        for runner in failed[: len(runners) - 1]:
            runners.remove(runner)
            await _stop([runner])


async def _first_news(runners: list[_Runner], timeout_s: float | None) -> None:
    """Waits for the first token or the end of any branch."""
    waits: set[asyncio.Future[Chunk | None] | asyncio.Future[None]] = set()
    for runner in runners:
        waits.add(runner.first)
        if runner.branch.first_token is not None and not runner.branch.first_token.done():
            waits.add(runner.branch.first_token)
    await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
