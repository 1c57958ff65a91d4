"""Servers that are asked what they are: when, and what becomes of the reports."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

import msgspec
import pytest

from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.fleet import server_info
from gateway.fleet.server_info import ControlAddress, ServerInfoWatch, control_address
from gateway.upstream.vllm_grpc.server_info import ServerFigures
from scheduler.contract import EngineReport
from tests import serving

PATIENT_S = 30.0
HERE = ControlAddress(address="a:9000", tls=False)
FIGURES = ServerFigures(
    version="0.33.0", ranks=2, context_tokens=8192, rank_max_running=32, kv_capacity_tokens=1001
)
REPORT = EngineReport(
    placement="own/a",
    at_s=0.0,
    running=0,
    waiting=0,
    kv_usage=0.0,
    prompt_tokens_total=0,
    generation_tokens_total=0,
)


@dataclass
class Servers:
    """Servers that tell `figures`, or fail."""

    figures: ServerFigures | UpstreamFailure = FIGURES
    asked: list[str] = field(default_factory=list)

    async def ask(self, control: ControlAddress) -> ServerFigures:
        self.asked.append(control.address)
        if isinstance(self.figures, UpstreamFailure):
            raise self.figures
        return self.figures


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENT_S):
        while not condition():
            await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def watching(servers: Servers) -> AsyncIterator[ServerInfoWatch]:
    watch = ServerInfoWatch(servers.ask)
    watch.apply({"own/a": HERE})
    run = asyncio.create_task(watch.run())
    try:
        yield watch
    finally:
        run.cancel()
        await asyncio.wait([run])


def max_running(watch: ServerInfoWatch) -> int | None:
    return watch.completed("own/a", REPORT, 1).max_running


async def test_a_report_gets_what_it_lacks() -> None:
    servers = Servers()
    async with watching(servers) as watch:
        await until(lambda: max_running(watch) is not None)
        whole = watch.completed("own/a", REPORT, 1)
        assert (whole.max_running, whole.context_tokens) == (64, 8192)
        assert (whole.kv_capacity_tokens, whole.kv_capacity_derived) == (1001, True)
        rank = watch.completed("own/a", REPORT, 2)
        assert (rank.max_running, rank.kv_capacity_tokens) == (32, 500)
        told = replace(REPORT, kv_capacity_tokens=7, context_tokens=9)
        completed = watch.completed("own/a", told, 1)
        assert (completed.kv_capacity_tokens, completed.context_tokens) == (7, 9)
        assert not completed.kv_capacity_derived
        assert watch.completed("own/b", REPORT, 1) == REPORT, "another server"


async def test_what_a_server_does_not_tell_stays_unknown() -> None:
    untold = replace(FIGURES, ranks=None, kv_capacity_tokens=None, context_tokens=None)
    async with watching(servers := Servers(untold)) as watch:
        await until(lambda: bool(servers.asked))
        assert watch.completed("own/a", REPORT, 1) == REPORT
        assert watch.completed("own/a", REPORT, 2).max_running == 32


async def test_a_server_that_cannot_answer_is_asked_when_it_comes_into_service() -> None:
    servers = Servers(UpstreamFailure(FailureKind.CONNECT, "no connection"))
    async with watching(servers) as watch:
        await until(lambda: len(servers.asked) == 1)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(servers.asked) == 1, "not again at once"
        servers.figures = FIGURES
        watch.notify_in_service("own/b")
        watch.notify_in_service("own/a")
        await until(lambda: max_running(watch) == 64)


@pytest.mark.parametrize(
    ("kind", "kept"), [(FailureKind.CONNECT, True), (FailureKind.PROTOCOL, False)]
)
async def test_figures_stay_while_the_server_may_be_the_same(kind: FailureKind, kept: bool) -> None:
    async with watching(servers := Servers()) as watch:
        await until(lambda: max_running(watch) == 64)
        servers.figures = UpstreamFailure(kind, "no")
        watch.notify_in_service("own/a")
        await until(lambda: len(servers.asked) >= 2)
        for _ in range(20):
            await asyncio.sleep(0)
        assert max_running(watch) == (64 if kept else None)


async def test_a_server_is_asked_again_as_it_may_have_restarted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_info, "AGAIN_S", 0.002)
    async with watching(servers := Servers()) as watch:
        await until(lambda: max_running(watch) == 64)
        servers.figures = replace(FIGURES, rank_max_running=8)
        await until(lambda: max_running(watch) == 16)


async def test_figures_of_another_server_are_forgotten() -> None:
    async with watching(servers := Servers()) as watch:
        await until(lambda: max_running(watch) == 64)
        servers.figures = UpstreamFailure(FailureKind.CONNECT, "no connection")
        watch.apply({"own/a": replace(HERE, address="b:9000")})
        assert max_running(watch) is None
        await until(lambda: servers.asked[-1] == "b:9000")
        watch.apply({})
        watch.notify_in_service("own/a")


def test_addresses() -> None:
    pool = serving.pool(["http://host:8000"])
    assert control_address(pool, "http://host:8000") is None
    own = control_address(pool, "https://[::1]:8000", 9001)
    assert own == ControlAddress(address="[::1]:9001", tls=True)
    of_all = msgspec.structs.replace(pool, grpc_port=9000)
    plain = ControlAddress(address="h:9000", tls=False)
    assert control_address(of_all, "http://h:1") == plain


async def test_more_sequences_than_any_server_runs_are_unknown() -> None:
    servers = Servers(replace(FIGURES, ranks=1 << 40, rank_max_running=1 << 40))
    async with watching(servers) as watch:
        await until(lambda: watch.completed("own/a", REPORT, 1).context_tokens is not None)
        assert max_running(watch) is None
