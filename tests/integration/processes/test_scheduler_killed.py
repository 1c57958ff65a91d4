"""kill -9 of the scheduler's process under load: streams go on, and everything is booked once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import msgspec

from gateway.config.gateway import GatewayConfig, KeyConfig, KeyRole
from gateway.config.ledger import BudgetConfig
from gateway.config.resolve.api_keys import key_sha256
from gateway.fronts.supervisor import RunningFronts, running_fronts
from moegate.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
)
from scheduler.budgets.budget_window import Period
from tests import serving
from tests.counting import Counting, counting
from tests.serving import METADATA, chat_request, first_message, read_stream, until

OWN = (("grpc.use_local_subchannel_pool", 1),)
CHANNELS = 12
BOSS = (("authorization", "Bearer mg-boss"),)
CATALOG = """
showback:
  - id: one
    pool: own
    usd_per_mtok: {input: "1", cached_input: "1", output: "1"}
    valid_from: 2026-01-01
    source: test
    checked_at: 2026-01-01
"""
"""1000 nano-USD a token."""


@dataclass
class Killed:
    """A gateway of two fronts, whose scheduler a test kills."""

    gateway: RunningFronts
    channels: list[grpc.aio.Channel]
    folder: Path
    stubs: list[inference_pb2_grpc.InferenceServiceAsyncStub] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stubs = [inference_pb2_grpc.InferenceServiceStub(c) for c in self.channels]

    async def kill(self) -> None:
        """Kills the scheduler; returns when another one runs."""
        pid = self.gateway.scheduler.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: self.gateway.scheduler.pid not in (None, pid))

    def rows(self, query: str) -> list[tuple[object, ...]]:
        """Rows of the ledger."""
        with contextlib.closing(sqlite3.connect(self.folder / "moegate-ledger.sqlite3")) as found:
            return found.execute(query).fetchall()


@contextlib.asynccontextmanager
async def served(settings: GatewayConfig, folder: Path) -> AsyncIterator[Killed]:
    path = folder / "moegate.yaml"
    path.write_bytes(msgspec.yaml.encode(msgspec.to_builtins(settings)))
    async with contextlib.AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(running_fronts(settings, path, 2))
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(gateway.address, options=OWN))
            for _ in range(CHANNELS)
        ]
        killed = Killed(gateway, channels, folder)
        await ready(killed)
        yield killed


async def ready(killed: Killed) -> None:
    """Returns when a request is answered at each channel."""
    async with asyncio.timeout(serving.READY_S):
        for stub in killed.stubs:
            while await refusal(stub) is not None:
                await asyncio.sleep(0.1)


async def refusal(
    stub: inference_pb2_grpc.InferenceServiceAsyncStub, **fields: object
) -> grpc.StatusCode | None:
    """How a small request is refused; None: it is answered."""
    try:
        await stub.GenerateOnce(once(max_output_tokens=1, **fields), metadata=METADATA)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return None


def config_of(url: str, folder: Path) -> GatewayConfig:
    made = serving.config(
        pools=[serving.pool([url], max_num_seqs=64)],
        keys=[KeyConfig(id="boss", sha256=key_sha256("mg-boss"), role=KeyRole.OPERATOR)],
        interactive=serving.PATIENT,
    )
    (folder / "prices.yaml").write_text(CATALOG)
    prices = msgspec.structs.replace(made.prices, catalog="prices.yaml")
    budget = BudgetConfig(tenant="team", period=Period.MONTH, cap_usd="1000", hard=True)
    return msgspec.structs.replace(made, prices=prices, budgets=(budget,))


def once(**fields: object) -> inference_pb2.GenerateOnceRequest:
    return inference_pb2.GenerateOnceRequest(request=chat_request(**fields))  # type: ignore[arg-type]


async def test_streams_go_on_and_each_is_booked_once(tmp_path: Path) -> None:
    upstream = Counting(pause_s=0.05)
    async with counting(upstream):
        async with served(config_of(upstream.url, tmp_path), tmp_path) as killed:
            requests = upstream.requests
            for _ in range(3):
                calls = [
                    stub.Generate(chat_request(max_output_tokens=60), metadata=METADATA)
                    for stub in killed.stubs
                ]
                for call in calls:
                    await first_message(call)
                asked_s = time.monotonic()
                killing = asyncio.create_task(killed.kill())
                await asyncio.sleep(0.05)
                answers = await asyncio.gather(
                    *(
                        stub.GenerateOnce(once(max_output_tokens=2), metadata=METADATA)
                        for stub in killed.stubs
                    )
                )
                print(f"admissions are back after {time.monotonic() - asked_s:.2f} s")
                assert len(answers) == CHANNELS, "what came meanwhile has waited"
                for call in calls:
                    ended = await read_stream(call)
                    assert ended.done is not None, "the stream has its end"
                    assert ended.done.usage.completion_tokens == 60
                await killing
            assert upstream.requests - requests == 6 * CHANNELS
        rows = killed.rows("SELECT state, request_id, COUNT(*) FROM attempt GROUP BY 1, 2")
        assert {state for state, *_ in rows} == {"final"}
        assert all(count == 1 for *_, count in rows), "each is booked once"
        assert len(rows) == upstream.requests
        [(tokens, charged)] = killed.rows(
            "SELECT SUM(prompt_tokens + completion_tokens), SUM(charged_nano_usd) FROM attempt"
        )
        assert tokens == upstream.tokens
        assert charged == 1000 * upstream.tokens
        [(settled, committed)] = killed.rows(
            "SELECT settled_nano_usd, committed_nano_usd FROM account"
        )
        assert settled == committed == charged, "no budget holds what nobody has spent"


async def test_keys_stay_in_use_and_drains_hold(tmp_path: Path) -> None:
    upstream = Counting(pause_s=0.05)
    async with counting(upstream):
        settings = config_of(upstream.url, tmp_path)
        async with served(settings, tmp_path) as killed:
            first, *others = killed.stubs
            assert await refusal(first, idempotency_key="ended") is None
            call = first.Generate(
                chat_request(idempotency_key="running", max_output_tokens=80), metadata=METADATA
            )
            await first_message(call)
            await killed.kill()
            requests = upstream.requests
            for stub in others:
                for key in ("ended", "running"):
                    code = await refusal(stub, idempotency_key=key)
                    assert code is grpc.StatusCode.ALREADY_EXISTS, key
            assert upstream.requests == requests
            assert (await read_stream(call)).done is not None
            admin = admin_pb2_grpc.AdminServiceStub(killed.channels[0])
            await admin.Drain(admin_pb2.DrainRequest(placement="own/a"), metadata=BOSS)
            await killed.kill()
            assert await refusal(first) is grpc.StatusCode.UNAVAILABLE, "it is drained"
            undrain = admin_pb2.UndrainRequest(placement="own/a")
            await admin.Undrain(undrain, metadata=BOSS, wait_for_ready=True)
            await ready(killed)
