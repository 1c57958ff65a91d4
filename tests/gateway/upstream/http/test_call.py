"""Time limits of a call: which failure each limit means, and when the timer is set."""

from __future__ import annotations

import asyncio
import math
from unittest.mock import Mock

import aiohttp
import pytest

from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.upstream.http.call import CallBounds


def bounds(first_s: float = 5.0, idle_s: float = 1.0, end_s: float = math.inf) -> CallBounds:
    return CallBounds(100.0, first_s=first_s, idle_s=idle_s, end_s=end_s)


def body() -> aiohttp.StreamReader:
    protocol = Mock(_reading_paused=False)
    return aiohttp.StreamReader(protocol, 1 << 16, loop=asyncio.get_running_loop())


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
    with pytest.raises(TimeoutError):
        await made.read(body())


async def test_one_timer_serves_many_reads_and_fires_at_the_newest_limit() -> None:
    loop = asyncio.get_running_loop()
    made = CallBounds(loop.time(), first_s=0.03, idle_s=0.1, end_s=math.inf)
    content = body()
    started_s = loop.time()
    content.feed_data(b"a")
    assert await made.read(content) == b"a"
    made.record_output(loop.time())
    loop.call_later(0.06, content.feed_data, b"b")
    assert await made.read(content) == b"b", "the timer of the first read is not this one's"
    made.record_output(loop.time())
    with pytest.raises(TimeoutError):
        await made.read(content)
    assert loop.time() - started_s >= 0.15
    made.close()


async def test_without_limits_there_is_no_timer_and_the_end_is_empty() -> None:
    made = CallBounds(0.0, first_s=math.inf, idle_s=math.inf, end_s=math.inf)
    content = body()
    asyncio.get_running_loop().call_later(0.005, content.feed_eof)
    assert await made.read(content) == b""
    made.close()
