"""A gateway of two front processes: the same schedule, bill and limits as with one process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import grpc
import msgspec
import pytest

from gateway.config.gateway import GatewayConfig, KeyConfig, KeyRole
from gateway.config.ledger import BudgetConfig
from gateway.config.limits import KeyLimitsConfig, LimitsConfig
from gateway.config.problems import ConfigError
from gateway.config.resolve.api_keys import key_sha256
from gateway.config.telemetry import TelemetryConfig
from gateway.fronts.listening import shared_port
from gateway.fronts.processes import FrontProcesses, front_command
from gateway.fronts.scheduler_side import SchedulerSide, running_scheduler_side
from gateway.fronts.supervisor import kept_running, running_fronts
from moegate.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    usage_pb2,
    usage_pb2_grpc,
)
from scheduler.budgets.budget_window import Period
from scheduler.contract import AttemptOutcome
from scheduler.metering.settlement import SettledAttempt
from tests import serving
from tests.scripted import GOOD, ROLE, Scripted, listening, word
from tests.serving import METADATA, chat_request, first_message, read_stream, until

OPERATOR = KeyConfig(id="boss", sha256=key_sha256("mg-boss"), role=KeyRole.OPERATOR)
BOSS = (("authorization", "Bearer mg-boss"),)
SEVERAL_A_MINUTE = KeyConfig(
    id="slow", sha256=key_sha256("mg-slow"), limits=KeyLimitsConfig(requests_per_minute=20)
)
SLOW = (("authorization", "Bearer mg-slow"),)
OWN = (("grpc.use_local_subchannel_pool", 1),)
"""Each channel has a connection of its own."""
CHANNELS = 24
"""So many connections that no front is without one, but once in eight million times."""
CATALOG = """
showback:
  - id: one
    pool: own
    usd_per_mtok: {input: "1", cached_input: "1", output: "1"}
    valid_from: 2026-01-01
    source: test
    checked_at: 2026-01-01
"""


@dataclass
class Two:
    """A gateway of two fronts, with many connections."""

    gateway: SchedulerSide
    processes: FrontProcesses
    http_address: str | None
    console_address: str | None
    channels: list[grpc.aio.Channel]
    accounts: list[SettledAttempt]
    stubs: list[inference_pb2_grpc.InferenceServiceAsyncStub] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stubs = [inference_pb2_grpc.InferenceServiceStub(c) for c in self.channels]

    def at(self, number: int) -> int:
        """Client requests at a front."""
        fronts = [f for f in self.gateway.host.fronts if f.number == number]
        return sum(len(front.session.requests) for front in fronts)

    async def nothing_is_left(self) -> None:
        local = self.gateway.parts.scheduler
        running = local.claims._limiter.running
        # An answer may overtake the end of its request and of its RPC.
        await until(lambda: local.active_requests == running("test") == 0)
        assert all(not state.residents for state in local.core.placements)
        assert not local.claims._idempotency._running


def once(**fields: object) -> inference_pb2.GenerateOnceRequest:
    return inference_pb2.GenerateOnceRequest(request=chat_request(**fields))  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def two_fronts(
    settings: GatewayConfig, folder: Path, *, path: Path | None = None, serves: bool = True
) -> AsyncIterator[Two]:
    """The fronts are processes; the scheduler's side is in this one."""
    accounts: list[SettledAttempt] = []
    async with contextlib.AsyncExitStack() as stack:
        sockets = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        addresses = {"listen": stack.enter_context(shared_port(settings.server.listen, "listen"))}
        for name in ("http_listen", "console_listen"):
            listen = getattr(settings.server, name)
            if listen is not None:
                addresses[name] = stack.enter_context(shared_port(listen, name))
        gateway = await stack.enter_async_context(
            running_scheduler_side(
                *(settings, folder, sockets),
                addresses=addresses,
                path=path,
                sinks=(accounts.append,),
            )
        )
        processes = FrontProcesses(2, front_command(sockets / "link"))
        await stack.enter_async_context(
            kept_running(processes.run(), processes.until_ready(), processes.kill)
        )
        stack.push_async_callback(processes.stop, None, settings.server.drain_s)
        channels = [
            await stack.enter_async_context(
                grpc.aio.insecure_channel(addresses["listen"], options=OWN)
            )
            for _ in range(CHANNELS)
        ]
        states = gateway.parts.scheduler.core.placements
        await until(lambda: not serves or all(state.serving for state in states))
        http_address = addresses.get("http_listen")
        console_address = addresses.get("console_listen")
        yield Two(gateway, processes, http_address, console_address, channels, accounts)


def config_of(
    *urls: str,
    limits: KeyLimitsConfig | None = None,
    budgets: tuple[BudgetConfig, ...] = (),
    folder: Path | None = None,
) -> GatewayConfig:
    made = serving.config(
        pools=[serving.pool(urls, max_num_seqs=64)],
        keys=[OPERATOR, SEVERAL_A_MINUTE],
        interactive=serving.PATIENT,
    )
    tenant = made.tenants[0]
    mine = msgspec.structs.replace(tenant.keys[0], limits=limits or KeyLimitsConfig())
    tenant = msgspec.structs.replace(tenant, keys=(mine, *tenant.keys[1:]))
    made = msgspec.structs.replace(made, tenants=(tenant,), budgets=budgets)
    if folder is not None:
        (folder / "prices.yaml").write_text(CATALOG)
        prices = msgspec.structs.replace(made.prices, catalog="prices.yaml")
        made = msgspec.structs.replace(made, prices=prices)
    return made


async def test_a_front_that_dies_is_booked_and_started_again(tmp_path: Path) -> None:
    upstream = Scripted(frames=[ROLE, word(1), word(2)], end="hang")
    async with (
        listening(upstream),
        two_fronts(config_of(upstream.url, folder=tmp_path), tmp_path) as two,
    ):
        calls = [stub.Generate(chat_request(), metadata=METADATA) for stub in two.stubs]
        for call in calls:
            await first_message(call)
        await until(lambda: two.at(1) + two.at(2) == CHANNELS)
        lost, kept = two.at(1), two.at(2)
        assert lost
        assert kept
        hosted = next(f for f in two.gateway.host.fronts if f.number == 1)
        await until(lambda: all(b.output_tokens == 2 for b in hosted.session.branches.values()))
        pid = two.processes.pid(1)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: len(two.accounts) == lost)
        for account in two.accounts:
            assert account.outcome is AttemptOutcome.FAILED
            assert account.usage is not None
            assert (account.usage.completion_tokens, account.usage.estimated) == (2, True)
            assert account.charged_nano_usd == (account.usage.prompt_tokens + 2) * 1000
            assert account.metered_nano_usd is not None
        assert two.gateway.parts.scheduler.active_requests == kept, "the other front's go on"
        await until(lambda: two.processes.pid(1) not in (None, pid))
        await until(lambda: len(two.gateway.host.fronts) == 2)
        for call in calls:
            call.cancel()
        await until(lambda: len(two.accounts) == CHANNELS)
        await until(lambda: two.gateway.parts.scheduler.active_requests == 0)
        await two.nothing_is_left()
        upstream.end, upstream.frames = "end", GOOD
        for _ in range(3):  # the front that was started again answers as well
            answers = await asyncio.gather(
                *(
                    stub.GenerateOnce(once(), metadata=METADATA, wait_for_ready=True)
                    for stub in two.stubs
                )
            )
            assert len(answers) == CHANNELS
        await two.nothing_is_left()


async def test_limits_and_idempotency_are_those_of_one_process(tmp_path: Path) -> None:
    upstream = Scripted(frames=[ROLE, word(1)], end="hang")
    limits = KeyLimitsConfig(concurrent_requests=10)
    async with (
        listening(upstream),
        two_fronts(config_of(upstream.url, limits=limits), tmp_path) as two,
    ):
        calls = [stub.Generate(chat_request(), metadata=METADATA) for stub in two.stubs]
        found = await asyncio.gather(*map(first_message, calls), return_exceptions=True)
        refused = [error for error in found if isinstance(error, grpc.aio.AioRpcError)]
        assert len(found) - len(refused) == 10
        assert {error.code() for error in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert two.at(1) + two.at(2) == 10
        for call in calls:
            call.cancel()
        await until(lambda: two.gateway.parts.scheduler.active_requests == 0)
        await two.nothing_is_left()

        upstream.end, upstream.frames, upstream.chats = "end", GOOD, 0
        two.accounts.clear()
        asked = [
            stub.GenerateOnce(once(idempotency_key="once"), metadata=BOSS) for stub in two.stubs
        ]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert sum(not isinstance(answer, BaseException) for answer in answers) == 1
        assert upstream.chats == len(two.accounts) == 1

        minute = [stub.GenerateOnce(once(), metadata=SLOW) for _ in range(2) for stub in two.stubs]
        answers = await asyncio.gather(*minute, return_exceptions=True)
        good = sum(not isinstance(answer, BaseException) for answer in answers)
        assert 20 <= good <= 22, "one or two may have come back to a slow machine"
        await two.nothing_is_left()


async def test_a_tenant_has_its_calls_once_over_all_fronts(tmp_path: Path) -> None:
    most = 10
    settings = msgspec.structs.replace(
        config_of("http://127.0.0.1:1"), limits=LimitsConfig(tenant_rpcs=most)
    )
    async with two_fronts(settings, tmp_path, serves=False) as two:
        watches = []
        for channel in two.channels:
            stub = usage_pb2_grpc.UsageServiceStub(channel)
            watches.append(stub.WatchFleet(usage_pb2.WatchFleetRequest(), metadata=BOSS))
        found = await asyncio.gather(*(watch.read() for watch in watches), return_exceptions=True)
        refused = [error for error in found if isinstance(error, grpc.aio.AioRpcError)]
        assert len(found) - len(refused) == most
        assert {error.code() for error in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        for watch in watches:
            watch.cancel()
        counted = two.gateway.parts.scheduler.claims._limiter.running
        await until(lambda: counted("tenant:team") == 0)


async def test_a_hard_budget_holds_over_all_fronts(tmp_path: Path) -> None:
    upstream = Scripted(frames=GOOD)
    budget = BudgetConfig(tenant="team", period=Period.MONTH, cap_usd="0.0005", hard=True)
    async with listening(upstream):
        settings = config_of(upstream.url, budgets=(budget,), folder=tmp_path)
        async with two_fronts(settings, tmp_path) as two:
            for _ in range(4):
                calls = [stub.GenerateOnce(once(), metadata=METADATA) for stub in two.stubs]
                await asyncio.gather(*calls, return_exceptions=True)
            charged = sum(account.charged_nano_usd or 0 for account in two.accounts)
            assert 0 < charged <= 500_000
            assert len(two.accounts) < 4 * CHANNELS, "some were refused"
            await two.nothing_is_left()


async def test_whichever_front_answers_an_operator_sees_the_whole(tmp_path: Path) -> None:
    upstream = Scripted(frames=GOOD)
    async with listening(upstream), two_fronts(config_of(upstream.url), tmp_path) as two:
        await asyncio.gather(
            *(
                stub.GenerateOnce(once(request_id=f"r{n}"), metadata=METADATA)
                for n, stub in enumerate(two.stubs)
            )
        )
        for channel in two.channels:
            admin = admin_pb2_grpc.AdminServiceStub(channel)
            usage = usage_pb2_grpc.UsageServiceStub(channel)
            inference = inference_pb2_grpc.InferenceServiceStub(channel)
            status = await admin.GetLedgerStatus(admin_pb2.GetLedgerStatusRequest(), metadata=BOSS)
            assert not status.error
            explained = await inference.Explain(
                inference_pb2.ExplainRequest(request_id="r3", key_id="test"), metadata=BOSS
            )
            assert explained.placement == "own/a"
            watching = usage.WatchFleet(usage_pb2.WatchFleetRequest(), metadata=BOSS)
            seen = await watching.read()
            assert isinstance(seen, usage_pb2.WatchFleetResponse)
            watching.cancel()
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await admin.Drain(admin_pb2.DrainRequest(placement="own/a"), metadata=METADATA)
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        first, second = two.channels[0], two.channels[1]
        await admin_pb2_grpc.AdminServiceStub(first).Drain(
            admin_pb2.DrainRequest(placement="own/a"), metadata=BOSS
        )
        assert not two.gateway.parts.scheduler.fleet.serves
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await admin_pb2_grpc.AdminServiceStub(second).Drain(
                admin_pb2.DrainRequest(placement="none"), metadata=BOSS
            )
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
        assert serving.details(unknown.value), "with its details"


async def test_metrics_of_all_stand_on_one_page_once(tmp_path: Path) -> None:
    upstream = Scripted(frames=GOOD)
    async with listening(upstream):
        settings = msgspec.structs.replace(
            config_of(upstream.url), telemetry=TelemetryConfig(metrics_listen="127.0.0.1:0")
        )
        async with two_fronts(settings, tmp_path) as two:

            async def count() -> float:
                url = f"http://{two.gateway.metrics_address}/metrics"
                page = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read())
                lines = page.decode().splitlines()
                found = [
                    line
                    for line in lines
                    if line.startswith("gen_ai_server_request_duration_seconds_count")
                ]
                assert sum(line.startswith("moegate_loop_busy ") for line in lines) == 1
                return sum(float(line.rpartition(" ")[2]) for line in found)

            for number, stub in enumerate(two.stubs):
                await stub.GenerateOnce(once(), metadata=METADATA)
                if number == 3:
                    assert await count() == 4
            assert await count() == CHANNELS
            pid = two.processes.pid(1)
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await until(lambda: two.processes.pid(1) not in (None, pid))
            assert await count() == CHANNELS, "what it had counted stays"


async def test_a_reload_holds_in_every_process_or_in_none(tmp_path: Path) -> None:
    upstream = Scripted(frames=GOOD)
    file = tmp_path / "moegate.yaml"
    async with listening(upstream):
        settings = config_of(upstream.url)
        file.write_bytes(msgspec.yaml.encode(msgspec.to_builtins(settings)))
        async with two_fronts(settings, tmp_path, path=file) as two:
            file.write_text("pools: 5")
            with pytest.raises(ConfigError):
                await two.gateway.reload_file()
            for stub in two.stubs:
                await stub.GenerateOnce(once(), metadata=METADATA)
            tenant = settings.tenants[0]
            other = KeyConfig(id="other", sha256=key_sha256("mg-other"))
            changed = msgspec.structs.replace(
                settings,
                tenants=(msgspec.structs.replace(tenant, keys=(other, OPERATOR)),),
            )
            file.write_bytes(msgspec.yaml.encode(msgspec.to_builtins(changed)))
            admin = admin_pb2_grpc.AdminServiceStub(two.channels[0])
            answer = await admin.Reload(admin_pb2.ReloadRequest(), metadata=BOSS)
            assert list(answer.changes) == ["tenants"]
            for stub in two.stubs:
                await stub.GenerateOnce(once(), metadata=(("authorization", "Bearer mg-other"),))
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await stub.GenerateOnce(once(), metadata=METADATA)
                assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_the_http_port_is_shared_too(tmp_path: Path) -> None:
    upstream = Scripted(frames=GOOD)
    async with listening(upstream):
        settings = config_of(upstream.url)
        server = msgspec.structs.replace(settings.server, http_listen="127.0.0.1:0")
        settings = msgspec.structs.replace(settings, server=server)
        async with two_fronts(settings, tmp_path) as two:
            url = f"http://{two.http_address}/v1/chat/completions"
            body = {"model": "moe", "messages": [{"role": "user", "content": "Hello"}]}
            headers = {"Authorization": f"Bearer {serving.KEY}"}
            for _ in range(CHANNELS):
                async with (
                    aiohttp.ClientSession() as session,
                    session.post(url, json=body, headers=headers) as answer,
                ):
                    assert answer.status == 200, await answer.text()
                    found = await answer.json()
                    assert found["choices"][0]["message"]["content"] == " w1 w2"
            assert len(two.accounts) == CHANNELS
            await two.nothing_is_left()


async def test_the_command_drains_and_shares_its_port_with_nobody(tmp_path: Path) -> None:
    upstream = Scripted(frames=[ROLE, *map(word, range(1, 20)), *GOOD[-2:]], pause_s=0.05)
    async with listening(upstream), contextlib.AsyncExitStack() as stack:
        file = tmp_path / "moegate.yaml"
        file.write_bytes(msgspec.yaml.encode(msgspec.to_builtins(config_of(upstream.url))))
        process = await stack.enter_async_context(served(file))
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        address = line.removeprefix("moegate listens on ").strip()
        async with grpc.aio.insecure_channel(address) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            call = stub.Generate(chat_request(), metadata=METADATA, wait_for_ready=True)
            await first_message(call)
            again = msgspec.structs.replace(
                config_of(upstream.url),
                server=msgspec.structs.replace(config_of().server, listen=address),
            )
            with pytest.raises(OSError, match=r"server\.listen: cannot listen on"):
                async with running_fronts(again, file, 1):
                    pass
            process.send_signal(signal.SIGTERM)
            assert (await read_stream(call)).done is not None, "it has time to end"
        async with asyncio.timeout(serving.READY_S):
            assert await process.wait() == 0


async def test_fronts_end_with_their_parent(tmp_path: Path) -> None:
    upstream = Scripted(frames=[ROLE, word(1)], end="hang")
    async with listening(upstream), contextlib.AsyncExitStack() as stack:
        file = tmp_path / "moegate.yaml"
        file.write_bytes(msgspec.yaml.encode(msgspec.to_builtins(config_of(upstream.url))))
        process = await stack.enter_async_context(served(file))
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        async with grpc.aio.insecure_channel(line.split()[-1]) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            call = stub.Generate(chat_request(), metadata=METADATA, wait_for_ready=True)
            await first_message(call)
            process.kill()
            with pytest.raises(grpc.aio.AioRpcError) as broken:
                await read_stream(call)
            assert broken.value.code() is grpc.StatusCode.UNAVAILABLE
        async with asyncio.timeout(serving.READY_S):
            await upstream.left.wait()


@contextlib.asynccontextmanager
async def served(file: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "moegate", "serve", str(file), "--fronts", "2"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_session_of_the_console_is_taken_at_every_front(tmp_path: Path) -> None:
    settings = config_of("http://127.0.0.1:9")
    server = msgspec.structs.replace(settings.server, console_listen="127.0.0.1:0")
    settings = msgspec.structs.replace(settings, server=server)
    async with two_fronts(settings, tmp_path, serves=False) as two:
        url = f"http://{two.console_address}"
        async with aiohttp.ClientSession(
            cookie_jar=aiohttp.CookieJar(unsafe=True),
            connector=aiohttp.TCPConnector(force_close=True),
        ) as reader:
            form = {"key": "mg-boss", "then": "/models"}
            async with reader.post(f"{url}/sign-in", data=form, headers={"Origin": url}) as shown:
                assert (shown.status, shown.url.path) == (200, "/models")
            for _ in range(CHANNELS):
                async with reader.get(f"{url}/models") as shown:
                    assert (shown.status, shown.url.path) == (200, "/models")
