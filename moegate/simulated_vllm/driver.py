"""The step loop: the engine steps in real time, and the loop records the progress of each request.

One task steps the whole engine. It overwrites a few counts for each request (`RequestProgress`).
Text is a function of the position in the answer, so that a slow reader needs only the newest
counts, and no queue of tokens can grow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence as Several
from typing import NamedTuple

import msgspec

from moegate.simulated_vllm.step_recorder import StepRecorder
from moegate.simulated_vllm.wire import RequestTimes
from moegate.vllm_plugin.shares import Had
from simulation.engine.engine import Engine
from simulation.engine.sequences import Sequence, TokenRequest

MAX_LAG_S = 0.005
"""Longest lag of the steps behind the clock that later steps catch up with. It covers timers, which
are late by about a millisecond. A longer lag is lost time: a busy machine makes a slower engine."""


class EndedChoice(NamedTuple):
    """A choice on the engine's clock, and what it had of the engine's steps; None: unknown."""

    arrival_s: float
    end_s: float
    had: Had | None


class RequestProgress:
    """Output tokens of a request so far.

    `only_end`: the reader is woken once, when all choices have ended.
    """

    def __init__(self, request: TokenRequest, only_end: bool) -> None:
        self.request = request
        self.tokens = [0] * len(request.outputs)
        """Output tokens generated, by choice."""
        self.cached_tokens = 0
        self.times: RequestTimes | None = None
        """Of a request that has ended."""
        self._choices: list[EndedChoice] = []
        self.unfinished = len(request.outputs)
        self._only_end = only_end
        self._changed = asyncio.Event()

    async def changed(self) -> None:
        """Waits until the progress has changed since the last call."""
        await self._changed.wait()
        self._changed.clear()

    def end_choice(self, sequence: Sequence, end_s: float, had: Had | None) -> None:
        """Records the times of a choice that has ended, before `record`. `had`: of the engine's
        steps; None: unknown."""
        self._choices.append(EndedChoice(sequence.arrival_s, end_s, had))
        if len(self.tokens) == 1:
            self.times = request_times(sequence, end_s, had)
        elif len(self._choices) == len(self.tokens):
            self.times = choices_times(self._choices)

    def record(self, choice: int, tokens: int, cached_tokens: int, ended: bool) -> None:
        """Records a step of one choice. Called by the step loop only."""
        self.tokens[choice] = tokens
        if choice == 0:
            self.cached_tokens = cached_tokens
        self.unfinished -= ended
        if not (self._only_end and self.unfinished):
            self._changed.set()


class EngineDriver:
    """Steps the engine in real time and owns its clock."""

    def __init__(self, engine: Engine, recorder: StepRecorder) -> None:
        self.engine = engine
        self._recorder = recorder
        self._in_progress: dict[str, RequestProgress] = {}
        self._work = asyncio.Event()
        self._clock = asyncio.get_running_loop().time
        self._due_s = self._clock()

    @property
    def open_requests(self) -> int:
        """Requests that have neither ended nor been aborted."""
        return len(self._in_progress)

    def submit(
        self, request: TokenRequest, only_end: bool, rank: int | None = None
    ) -> RequestProgress:
        """Adds a request to the engine, pinned to `rank` if that is given.

        Raises ValueError for the reasons of `Engine.add`.
        """
        idle = not self.engine.has_work
        # While the steps lag behind, the engine's clock is the earlier of the two.
        now = self._clock() if idle else min(self._clock(), self._due_s)
        self.engine.add(request, now, rank)
        progress = self._in_progress[request.request_id] = RequestProgress(request, only_end)
        self._work.set()
        return progress

    def close(self, progress: RequestProgress) -> None:
        """Forgets a request. If it has not finished, its sequences leave the engine."""
        request_id = progress.request.request_id
        if self._in_progress.pop(request_id, None) is not None and progress.unfinished:
            self.engine.abort(request_id)

    async def run(self) -> None:
        """Steps the engine until cancelled."""
        engine, clock, recorder = self.engine, self._clock, self._recorder
        while True:
            idle = not engine.has_work
            if idle:
                self._work.clear()
                await self._work.wait()
                self._due_s = clock()
            last_s = self._due_s
            begin_s = max(last_s, clock() - MAX_LAG_S)
            duration_s = engine.begin_step(begin_s)
            self._due_s = begin_s + duration_s
            recorder.begun(duration_s, None if idle else self._due_s - last_s)
            # A sleep of 0 lets the readers run.
            await asyncio.sleep(max(0.0, self._due_s - clock()))
            sequences = engine.finish(every_token=True)
            recorder.ended(self._due_s, sequences)
            for sequence in sequences:
                progress = self._in_progress.get(sequence.request.request_id)
                ended = sequence.ended
                had = recorder.had(sequence) if ended else None
                if progress is not None:
                    tokens = engine.output_tokens(sequence)
                    if ended:
                        progress.end_choice(sequence, self._due_s, had)
                    progress.record(sequence.choice, tokens, sequence.cached_tokens, ended)


def request_times(sequence: Sequence, end_s: float, had: Had | None) -> RequestTimes | None:
    """Times of a sequence that has ended; None: it got no token. `had`: of the engine's steps."""
    if sequence.admitted_s is None or not sequence.first_token_s:
        return None
    tokens, first_s = sequence.output.tokens, sequence.first_token_s
    decode_ms = (end_s - first_s) * 1e3
    whole_s = end_s - sequence.admitted_s
    return RequestTimes(
        time_to_first_token_ms=(first_s - sequence.admitted_s) * 1e3,
        generation_time_ms=decode_ms,
        queue_time_ms=(sequence.admitted_s - sequence.arrival_s) * 1e3,
        mean_itl_ms=decode_ms / (tokens - 1) if tokens > 1 else None,
        tokens_per_second=tokens / whole_s if whole_s > 0 else None,
        moegate_prefill_ms=msgspec.UNSET if had is None else had.prefill_s * 1e3,
        moegate_decode_ms=msgspec.UNSET if had is None else had.decode_s * 1e3,
    )


def choices_times(choices: Several[EndedChoice]) -> RequestTimes | None:
    """Times of a request of several choices: of these only moegate's plugin tells something."""
    had = [choice.had for choice in choices if choice.had is not None]
    if len(had) < len(choices):
        return None
    whole_s = max(choice.end_s for choice in choices) - min(choice.arrival_s for choice in choices)
    return RequestTimes(
        moegate_prefill_ms=sum(each.prefill_s for each in had) * 1e3,
        moegate_decode_ms=sum(each.decode_s for each in had) * 1e3,
        moegate_whole_ms=whole_s * 1e3,
    )
