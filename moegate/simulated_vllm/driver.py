"""The step loop: lets the engine step in real time and tells the requests what it made.

One task for the whole engine. A request's news are two small lists that the loop overwrites
(`Watch`): text is a function of the position, so a slow reader finds only how far its choices have
come, and no queue can grow.
"""

from __future__ import annotations

import asyncio

from simulation.engine import Engine
from simulation.sequences import TokenRequest

MAX_LAG_S = 0.005
"""How far the steps may lag behind the clock before the lost time is given up. Timers are late by
about a millisecond, which is made up for; a busy machine just makes a slower engine."""


class Watch:
    """How far a request has come. `only_end`: wake the reader when all choices have ended."""

    def __init__(self, request: TokenRequest, only_end: bool) -> None:
        self.request = request
        self.tokens = [0] * len(request.outputs)
        """Output tokens made, by choice."""
        self.cached_tokens = 0
        self.unfinished = len(request.outputs)
        self._only_end = only_end
        self._news = asyncio.Event()

    async def news(self) -> None:
        """Waits until something has happened since the last call."""
        await self._news.wait()
        self._news.clear()

    def take(self, choice: int, tokens: int, cached_tokens: int, ended: bool) -> None:
        """Called by the loop, once a choice and step."""
        self.tokens[choice] = tokens
        if choice == 0:
            self.cached_tokens = cached_tokens
        self.unfinished -= ended
        if not (self._only_end and self.unfinished):
            self._news.set()


class EngineDriver:
    """Owns the engine's time."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._watches: dict[str, Watch] = {}
        self._work = asyncio.Event()
        self._clock = asyncio.get_running_loop().time
        self._due_s = self._clock()

    @property
    def open_requests(self) -> int:
        """Requests that have neither ended nor been aborted."""
        return len(self._watches)

    def submit(self, request: TokenRequest, only_end: bool, rank: int | None = None) -> Watch:
        """Hands a request to the engine, pinned to `rank` if that is given. Raises ValueError, as
        `Engine.add` does."""
        idle = not self.engine.has_work
        # While the steps lag behind, the engine's time is the earlier one.
        now = self._clock() if idle else min(self._clock(), self._due_s)
        self.engine.add(request, now, rank)
        watch = self._watches[request.request_id] = Watch(request, only_end)
        self._work.set()
        return watch

    def close(self, watch: Watch) -> None:
        """Ends a request: nothing where it has finished, else its sequences leave the engine."""
        request_id = watch.request.request_id
        if self._watches.pop(request_id, None) is not None and watch.unfinished:
            self.engine.abort(request_id)

    async def run(self) -> None:
        """Steps for ever."""
        engine, clock = self.engine, self._clock
        while True:
            if not engine.has_work:
                self._work.clear()
                await self._work.wait()
                self._due_s = clock()
            begin_s = max(self._due_s, clock() - MAX_LAG_S)
            self._due_s = begin_s + engine.begin_step(begin_s)
            # A sleep of 0 lets the readers run.
            await asyncio.sleep(max(0.0, self._due_s - clock()))
            for output in engine.finish_step():
                watch = self._watches.get(output.request_id)
                if watch is not None:
                    ended = output.finish_reason is not None
                    watch.take(output.choice, output.tokens, output.cached_tokens, ended)
