"""Reloads that nobody asked for by RPC: each is in the audit log, and none ends the listening."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.access.audit import Event
from gateway.config.problems import ReloadRefused
from gateway.runtime.reload import FILE_WATCH, SIGNAL, ReloadRequests, reload_on


@dataclass
class Log:
    """Stands for the store of an audit log."""

    events: list[tuple[str, str, Mapping[str, object] | None]] = field(default_factory=list)

    async def record(self, event: Event) -> None:
        self.events.append((event.actor, event.action, event.after))


@dataclass
class Gateway:
    """Answers each reload with the next of `answers`."""

    answers: list[list[str] | Exception]
    access: Any
    path: Path | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def reload_file(self) -> list[str]:
        answer = self.answers.pop(0)
        if not self.answers:
            self.done.set()
        if isinstance(answer, Exception):
            raise answer
        return answer


async def reloads(gateway: Gateway, *actors: str) -> None:
    """Asks for one reload after the other, and ends when there are no more answers."""
    requests = ReloadRequests()
    task = asyncio.create_task(reload_on(requests, gateway))
    for actor in actors:
        requests.ask(actor)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await gateway.done.wait()
    await asyncio.sleep(0)
    task.cancel()


async def test_each_reload_is_recorded_and_a_refused_one_is_not() -> None:
    log = Log()
    answers: list[list[str] | Exception] = [
        ["tenants"],
        ReloadRefused("no"),
        RuntimeError("a fault"),
        [],
    ]
    await reloads(Gateway(answers, log), SIGNAL, FILE_WATCH, SIGNAL, FILE_WATCH)
    assert log.events == [
        ("signal:HUP", "Reload", {"changes": ["tenants"]}),
        ("watch:files", "Reload", {"changes": []}),
    ]


async def test_requests_that_come_while_one_waits_are_one() -> None:
    requests = ReloadRequests()
    for actor in (SIGNAL, FILE_WATCH, SIGNAL):
        requests.ask(actor)
    assert await requests.next() == "signal:HUP, watch:files"
    requests.ask(SIGNAL)
    assert await requests.next() == "signal:HUP"
