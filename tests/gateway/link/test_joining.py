"""A front joins again, wherever the scheduler is then."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from gateway.link.joining import Joining
from gateway.link.remote_scheduler import RemoteScheduler
from gateway.link.wire.connection import connect, listen
from scheduler.port import Answer, Settled, Started
from tests.gateway.link.pipes import Joined
from tests.gateway.scheduling.scheduling_made import (
    ONE_USD,
    attempt_end,
    config,
    running,
    settings_of,
    submission,
)
from tests.serving import until


def joined() -> Joined:
    return Joined(running(settings_of(config(slots=4), catalog=ONE_USD)))


async def test_it_follows_the_scheduler_to_another_address(tmp_path: Path) -> None:
    first, second = joined(), joined()
    where = [tmp_path / "none"]
    clock = first.made.clock

    async def locate() -> Path:
        return where[0]

    remote = RemoteScheduler(clock=clock, handlers={}, on_fleet=lambda view: None)
    joining = Joining(remote, 1, locate, connect, clock)
    with pytest.raises(OSError, match="No such file"):
        await joining.join()
    where[0] = tmp_path / "first"
    server = await listen(where[0], first.host.connection)
    assert await joining.join() == b"setting"
    settings: list[bytes] = []
    keeping = asyncio.create_task(joining.keep(settings.append))
    answers: list[Answer] = []
    await remote.submit(submission("r"), answers.append)
    assert isinstance(answers[0], Started)
    server.close()
    first.host.close()
    await until(remote.away.is_set)
    where[0] = tmp_path / "second"
    server = await listen(where[0], second.host.connection)
    await until(remote.joined.is_set)
    assert settings == [b"setting"]
    assert second.made.local.active_requests == 1, "it was told what runs"
    remote.send(attempt_end("r"))
    await until(lambda: isinstance(answers[-1], Settled))
    assert [account.charged_nano_usd for account in second.made.accounts] == [110_000]
    keeping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await keeping
    await remote.leave()
    server.close()
