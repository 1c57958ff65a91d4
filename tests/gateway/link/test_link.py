"""The scheduler port over a link does what it does in one process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.link.joining import Joining
from gateway.link.remote_scheduler import RemoteScheduler
from gateway.link.wire import connection as connections
from gateway.link.wire.connection import CallFailed, connect, listen
from gateway.link.wire.messages import Kind
from scheduler.budgets.budget import Budget
from scheduler.budgets.budget_window import Period
from scheduler.contract import Progress, RefusalReason, Refuse, ServingChanged
from scheduler.limits.rate_limit import RateLimits
from scheduler.port import Answer, RequestEnded, Settled, SlotFreed, Started
from tests.gateway.link.pipes import Joined, JoinedFront, turns
from tests.gateway.scheduling.scheduling_made import (
    ONE_USD,
    attempt_end,
    config,
    running,
    settings_of,
    submission,
)

BUDGET = Budget(tenant="team", period=Period.DAY, cap_nano_usd=10**12)


def joined(*, budgets: tuple[Budget, ...] = (), **fields: Any) -> Joined:
    return Joined(running(settings_of(config(**fields), catalog=ONE_USD), budgets=budgets))


async def test_a_request_from_submission_to_settlement() -> None:
    two = joined()
    front = await two.join(1)
    answers: list[Answer] = []
    submitting = asyncio.ensure_future(front.remote.submit(submission("r"), answers.append))
    await turns()
    assert not submitting.done(), "it waits for the first answer"
    front.exchange()
    await submitting
    assert [type(answer) for answer in answers] == [Started]
    front.remote.send(Progress(request_id="r", attempt=1, output_tokens=3))
    front.remote.send(Progress(request_id="r", attempt=1, output_tokens=4))
    assert len(front.near._newest) == 1, "progress is told once"
    front.remote.send(attempt_end("r"))
    front.remote.send(RequestEnded(request_id="r", used_tokens=9, keep_idempotency_key=False))
    front.exchange()
    [account] = two.made.accounts
    assert account.charged_nano_usd == 110_000
    assert two.made.local.active_requests == 0


async def test_the_scheduler_hears_of_all_fronts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    two = joined(slots=2)
    fronts = [await two.join(number) for number in (1, 2)]
    for name, front in zip("ab", fronts, strict=True):
        submitting = asyncio.ensure_future(front.remote.submit(submission(name), lambda _: None))
        await turns()
        front.exchange()
        await submitting
    told: list[tuple[str, int]] = []
    send = two.made.local.send

    def heard(event: Any) -> None:
        if isinstance(event, Progress):
            told.append((event.request_id, event.output_tokens))
        send(event)

    monkeypatch.setattr(two.made.local, "send", heard)
    for tokens in (1, 5, 9):
        for name, front in zip("ab", fronts, strict=True):
            front.remote.send(Progress(request_id=name, attempt=1, output_tokens=tokens))
            front.exchange()
    assert told == [("a", 1), ("b", 1)], "a first token is told at once"
    two.host.tick()
    assert told[2:] == [("a", 9), ("b", 9)]
    two.host.tick()
    assert len(told) == 4
    # The progress of one that has ended is not told after its end.
    fronts[0].remote.send(Progress(request_id="a", attempt=1, output_tokens=12))
    fronts[0].exchange()
    fronts[0].remote.send(attempt_end("a"))
    fronts[0].remote.send(RequestEnded(request_id="a", used_tokens=9, keep_idempotency_key=False))
    fronts[0].exchange()
    two.host.tick()
    assert len(told) == 4


async def test_the_settlement_comes_back() -> None:
    two = joined()
    front = await two.join(1)
    answers: list[Answer] = []
    submitting = asyncio.ensure_future(front.remote.submit(submission("r"), answers.append))
    await turns()
    front.exchange()
    await submitting
    front.remote.send(attempt_end("r"))
    front.exchange()
    assert isinstance(answers[-1], Settled)
    assert answers[-1].attempt == two.made.accounts[0]


async def test_views_of_the_fleet_follow() -> None:
    two = joined(replicas=2)
    front = await two.join(1)
    assert front.remote.fleet == two.made.local.fleet
    two.made.local.report(ServingChanged(placement="own/a", serving=False, reason="test"))
    front.exchange()
    assert front.remote.fleet == two.made.local.fleet
    assert not front.remote.fleet.by_name["own/a"].serving


async def test_a_view_that_changes_while_a_front_is_welcomed_is_not_lost() -> None:
    """It leaves in one frame with the welcome, and ahead of it."""
    two = joined()
    remote = RemoteScheduler(clock=two.made.clock, handlers={}, on_fleet=lambda view: None)
    front = JoinedFront(remote, 1, two.host)
    joining = front.connect()
    await turns()
    front.near.flush()
    front.there.deliver()  # the host makes its welcome, with the view of now
    two.made.serve("own/a", serving=False)
    for _ in range(20):
        await turns()
        front.exchange()
    await joining
    assert not remote.fleet.by_name["own/a"].serving


async def test_what_a_front_meets_at_placements_is_told() -> None:
    two = joined()
    front = await two.join(1)
    front.remote.notify_refused("own/a", "no connection")
    front.remote.notify_silent("own/a")
    front.remote.notify_adapter_missing("own/a")
    front.exchange()
    assert two.met == [
        ("refused", "own/a", "no connection"),
        ("silent", "own/a"),
        ("adapter missing", "own/a"),
    ]


async def test_a_front_cannot_speak_of_another_ones_requests() -> None:
    two = joined(slots=4)
    first, second = await two.join(1), await two.join(2)
    submitting = asyncio.ensure_future(first.remote.submit(submission("r"), lambda answer: None))
    await turns()
    first.exchange()
    await submitting
    answers: list[Answer] = []
    again = asyncio.ensure_future(second.remote.submit(submission("r"), answers.append))
    await turns()
    second.exchange()
    await again
    [refuse] = answers
    assert isinstance(refuse, Refuse)
    assert refuse.reason is RefusalReason.REQUEST_IN_FLIGHT
    second.remote.send(attempt_end("r"))
    second.remote.send(RequestEnded(request_id="r", used_tokens=0, keep_idempotency_key=False))
    second.remote.send(SlotFreed(key_id="k"))
    second.exchange()
    assert two.made.accounts == []
    assert two.made.local.active_requests == 1


async def test_limits_are_those_of_all_fronts_together() -> None:
    two = joined()
    fronts = [await two.join(1), await two.join(2)]
    limits = RateLimits(requests_per_minute=3, concurrent_requests=2)
    refused = []
    for number in range(5):
        front = fronts[number % 2]
        taking = asyncio.ensure_future(front.remote.take_request("k", limits))
        await turns()
        front.exchange()
        refused.append(await taking is not None)
    assert refused == [False, False, False, True, True]


async def test_a_front_that_is_gone_frees_its_slots() -> None:
    two = joined()
    first, second = await two.join(1), await two.join(2)
    taking = asyncio.ensure_future(first.remote.take_slot("k", RateLimits(concurrent_requests=1)))
    await turns()
    first.exchange()
    assert await taking is None
    two.lose(first)
    again = asyncio.ensure_future(second.remote.take_slot("k", RateLimits(concurrent_requests=1)))
    await turns()
    second.exchange()
    assert await again is None


async def test_calls_over_a_real_socket(tmp_path: Path) -> None:
    two = joined(budgets=(BUDGET,))
    server = await listen(tmp_path / "link", two.host.connection)
    assert (tmp_path / "link").stat().st_mode & 0o777 == 0o600
    remote = await joined_at(two, tmp_path / "link")
    local = two.made.local
    assert await remote.quote(submission("r").request) == await local.quote(submission("r").request)
    assert await remote.explain("r") is None
    assert await remote.figures() == await local.figures()
    assert await remote.pool_cost("own", 10**9) == await local.pool_cost("own", 10**9)
    assert await remote.pool_rates() == await local.pool_rates()
    assert await remote.token_rates() == await local.token_rates()
    standings = await remote.budget_standings("team", "k")
    assert standings == await local.budget_standings("team", "k")
    assert standings is not None
    assert [each.cap_nano_usd for each in standings] == [BUDGET.cap_nano_usd]
    spend = await remote.key_spend("team", "k")
    assert spend is not None
    assert spend == await local.key_spend("team", "k")
    assert await remote.drain("own/a") == 0
    await remote.undrain("own/a")
    with pytest.raises(CallFailed, match="no such call"):
        await remote._ask("other", None, None)
    with pytest.raises(CallFailed, match="quote: KeyError"):
        await remote.quote(submission("r", model="none").request)
    with pytest.raises(CallFailed, match="front 1 is connected already"):
        await joined_at(two, tmp_path / "link")
    await remote.leave()
    server.close()


async def joined_at(two: Joined, path: Path) -> RemoteScheduler:
    """A front that is joined over a socket."""
    clock = two.made.clock
    remote = RemoteScheduler(clock=clock, handlers={}, on_fleet=lambda view: None)
    assert await Joining(remote, 1, lambda: at(path), connect, clock).join() == b"setting"
    return remote


async def at(path: Path) -> Path:
    return path


@pytest.mark.parametrize("garbage", [b"\xff" * 64, b"\0\0\0\1\xc1", b"\0\0\0\x03abc"])
async def test_garbage_ends_the_connection_only(tmp_path: Path, garbage: bytes) -> None:
    two = joined()
    server = await listen(tmp_path / "link", two.host.connection)
    reader, writer = await asyncio.open_unix_connection(tmp_path / "link")
    writer.write(garbage)
    assert await reader.read() == b"", "the host has ended it"
    writer.close()
    remote = await joined_at(two, tmp_path / "link")
    await remote.leave()
    server.close()


async def test_a_peer_that_does_not_read_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_WAITING", 10)
    two = joined()
    front = await two.join(1)
    front.host_side.pause_writing()
    assert front.host_side.is_congested
    for _ in range(12):
        front.host_side.post(Kind.FAIL, 1, "x")
    assert "does not read" in front.host_side.lost
    assert two.host.fronts == ()


async def test_a_congested_front_refuses_what_is_new() -> None:
    two = joined()
    front = await two.join(1)
    front.near.pause_writing()
    answers: list[Answer] = []
    await front.remote.submit(submission("r"), answers.append)
    [refuse] = answers
    assert isinstance(refuse, Refuse)
    assert refuse.reason is RefusalReason.UNAVAILABLE
    assert refuse.retry_after_s is not None
    front.remote.send(RequestEnded(request_id="r", used_tokens=0, keep_idempotency_key=False))
    front.near.resume_writing()
    front.exchange()
    assert two.made.local.active_requests == 0


async def test_nothing_passes_a_scheduler_that_may_not_act() -> None:
    """As when its lease has ended before any timer could run."""
    two = joined()
    front = await two.join(1)
    may_act = True
    front.host_side.may_act = lambda: may_act
    front.remote.send(SlotFreed(key_id="k"))
    front.exchange()
    assert two.host.fronts
    may_act = False
    submitting = asyncio.ensure_future(front.remote.submit(submission("r"), lambda answer: None))
    await turns()
    front.flush()
    front.there.deliver()
    assert front.host_side.lost == "this process may not act any more"
    assert two.made.local.active_requests == 0, "it has decided nothing"
    submitting.cancel()
    await asyncio.gather(submitting, return_exceptions=True)


async def test_nothing_leaves_a_scheduler_that_may_not_act() -> None:
    two = joined()
    front = await two.join(1)
    front.host_side.may_act = lambda: False
    two.made.local.report(ServingChanged(placement="own/a", serving=False, reason="test"))
    front.host_side._flush()
    assert front.host_side.lost == "this process may not act any more"
    assert not front.back.written
