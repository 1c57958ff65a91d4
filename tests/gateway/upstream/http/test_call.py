"""Time limits of a call: which failure each limit means, and when the timer is set."""

from __future__ import annotations

import asyncio
import math

import pytest

from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.upstream.http.call import CallBounds, read_some
from gateway.upstream.http.response import Response


def bounds(first_s: float = 5.0, idle_s: float = 1.0, end_s: float = math.inf) -> CallBounds:
    return CallBounds(100.0, first_s=first_s, idle_s=idle_s, end_s=end_s)


def body() -> Response:
    loop = asyncio.get_running_loop()
    return Response(loop, pause=lambda _: None, finish=lambda: None, abort=lambda: None)


def test_before_the_first_output_its_own_limit_holds() -> None:
    made = bounds()
    assert made.next_s == 105.0
    failure = made.failure()
    assert (failure.kind, failure.message) == (FailureKind.TIMEOUT, "no output within 5 s")


def test_after_output_the_idle_limit_holds_and_begins_anew_each_time() -> None:
    made = bounds()
    made.record_output(103.0)
    assert made.next_s == 104.0
    made.record_output(103.9)
    assert made.next_s == 104.9
    assert "silent for 1 s" in made.failure().message
    assert made.failure().kind is FailureKind.TIMEOUT


@pytest.mark.parametrize("started", [False, True])
def test_the_end_of_the_call_comes_before_the_other_limits(started: bool) -> None:
    made = bounds(end_s=100.5)
    if started:
        made.record_output(100.2)
    assert made.next_s == 100.5
    assert made.failure().kind is FailureKind.DEADLINE


def test_a_call_whose_reads_never_wait_still_ends() -> None:
    made = bounds(end_s=110.0)
    made.check_end(109.9)
    with pytest.raises(UpstreamFailure) as caught:
        made.check_end(110.0)
    assert caught.value.kind is FailureKind.DEADLINE


async def test_a_read_that_waits_too_long_times_out() -> None:
    now_s = asyncio.get_running_loop().time()
    made = CallBounds(now_s, first_s=0.01, idle_s=1.0, end_s=math.inf)
    with pytest.raises(UpstreamFailure, match="no output within"):
        await read_some(body(), made)


async def test_one_timer_serves_many_reads_and_fires_at_the_newest_limit() -> None:
    loop = asyncio.get_running_loop()
    made = CallBounds(loop.time(), first_s=0.03, idle_s=0.1, end_s=math.inf)
    content = body()
    started_s = loop.time()
    content.add(b"a")
    assert await read_some(content, made) == b"a"
    made.record_output(loop.time())
    loop.call_later(0.06, content.add, b"b")
    assert await read_some(content, made) == b"b", "the timer of the first read is not this one's"
    made.record_output(loop.time())
    with pytest.raises(UpstreamFailure, match="silent for"):
        await read_some(content, made)
    assert loop.time() - started_s >= 0.15
    made.close()


async def test_without_limits_there_is_no_timer_and_the_end_is_empty() -> None:
    made = CallBounds(0.0, first_s=math.inf, idle_s=math.inf, end_s=math.inf)
    content = body()
    asyncio.get_running_loop().call_later(0.005, content.end)
    assert await read_some(content, made) == b""
    made.close()
