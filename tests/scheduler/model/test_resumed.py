"""An attempt that is taken over counts where it runs, as if it had started here."""

from __future__ import annotations

import pytest

from scheduler.contract import AttemptEnded, AttemptOutcome, Cancelled, Progress, Start
from scheduler.core import Scheduler
from scheduler.model.resumed import RunningAttempt
from tests.gateway.scheduling.scheduling_made import config, running, settings_of
from tests.scheduler.requests_made import request

NOW_S = 100.0


async def core(*, slots: int = 1, replicas: int = 1) -> Scheduler:
    return running(settings_of(config(slots=slots, replicas=replicas))).local.core


def attempt(request_id: str, output_tokens: int = 0, placement: str = "own/a") -> RunningAttempt:
    return RunningAttempt(
        request=request(request_id, arrival_s=NOW_S - 5.0),
        placement=placement,
        attempt=3,
        started_s=NOW_S - 4.0,
        output_tokens=output_tokens,
    )


async def test_it_holds_its_slot_and_its_cache_until_its_end() -> None:
    made = await core(slots=1)
    [state] = made.placements
    assert made.resume(attempt("r", 50), NOW_S)
    assert (state.sequences, state.kv_tokens, state.pending) == (1, 150, {})
    assert not made.submit(request("next", arrival_s=NOW_S, ttft_s=60.0), NOW_S), "it waits"
    assert not made.handle(Progress(request_id="r", attempt=3, output_tokens=60), NOW_S + 1.0)
    assert state.kv_tokens == 160
    assert state.ttft_s is None, "its time to first token is not known here"
    end = AttemptEnded(request_id="r", attempt=3, outcome=AttemptOutcome.OK, output_tokens=60)
    [start] = made.handle(end, NOW_S + 2.0)
    assert isinstance(start, Start)
    assert start.request_id == "next"
    assert state.kv_tokens == 100


async def test_one_without_a_token_is_taken_to_compute_its_prompt() -> None:
    made = await core(slots=4)
    [state] = made.placements
    assert made.resume(attempt("r"), NOW_S)
    assert list(state.pending) == ["r"]
    made.handle(Progress(request_id="r", attempt=3, output_tokens=1), NOW_S + 0.5)
    assert state.pending == {}


async def test_attempts_count_on() -> None:
    made = await core(slots=4, replicas=2)
    assert made.resume(attempt("r"), NOW_S)
    end = AttemptEnded(request_id="r", attempt=3, outcome=AttemptOutcome.RETRYABLE)
    [action] = made.handle(end, NOW_S + 1.0)
    assert not isinstance(action, Start), "three attempts are as many as a request may have"
    [start] = made.submit(request("w", arrival_s=NOW_S), NOW_S, attempts=1)
    assert isinstance(start, Start)
    assert start.attempt == 2


async def test_one_on_an_unknown_placement_is_not_tracked() -> None:
    made = await core()
    assert not made.resume(attempt("r", placement="gone"), NOW_S)
    assert not made.handle(Cancelled(request_id="r"), NOW_S)
    assert made.resume(attempt("r"), NOW_S)
    with pytest.raises(ValueError, match="in use"):
        made.resume(attempt("r"), NOW_S)
