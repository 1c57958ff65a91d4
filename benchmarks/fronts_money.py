"""Money and limits with several gateways: real processes, one real PostgreSQL, simulated engines.

The same load through 1 to 8 gateways of a cluster. The bill is compared with the time that the
servers ran; limits, idempotency keys and charges are counted at the clients and the engines.

    python -m benchmarks.fronts --money [--fronts 1 2 4 8]
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
from rich.console import Console
from rich.table import Table

from gateway.config.resolve.api_keys import key_sha256
from moegate.simulated_vllm.server import SimulatedVllmConfig, simulated_vllm
from moegate.v1 import inference_pb2_grpc
from tests import serving
from tests.serving import chat_request, read_stream
from tests.stack.gateways.cluster import cluster
from tests.stack.gateways.cluster_load import PRICES
from tests.stack.ledger.postgres import Postgres, running_postgres

ENGINES = 3
USD_PER_HOUR = 2.10
LOAD_S = 20.0
CLIENTS = 16
PER_MINUTE, AT_ONCE, TOKENS_PER_MINUTE = 30, 4, 600
TOKENS = 50
"""Of a request's answer, beside a prompt of some 20."""


def tenants() -> list[dict[str, Any]]:
    """One key without limits, and one for each limit."""
    limits = {
        "test": {},
        "minute": {"requests_per_minute": PER_MINUTE},
        "once": {"concurrent_requests": AT_ONCE},
        "tokens": {"tokens_per_minute": TOKENS_PER_MINUTE},
    }
    keys = [
        {"id": name, "sha256": key_sha256(_key(name)), **({"limits": held} if held else {})}
        for name, held in limits.items()
    ]
    return [{"name": "team", "keys": keys}]


def _key(name: str) -> str:
    return serving.KEY if name == "test" else f"{serving.KEY}-{name}"


async def ask(stub: Any, key: str, **fields: Any) -> grpc.StatusCode:
    """One request. Returns how it ended."""
    request = chat_request(ignore_eos=True, **{"max_output_tokens": TOKENS, **fields})
    metadata = (("authorization", f"Bearer {_key(key)}"),)
    try:
        await read_stream(stub.Generate(request, metadata=metadata, timeout=60.0))
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def measure(postgres: Postgres, folder: Path, number: int) -> dict[str, str]:
    """The figures of one number of gateways."""
    engine = SimulatedVllmConfig(served_model_name=serving.MODEL)
    dsn = await postgres.new_database(f"fronts{number}")
    async with contextlib.AsyncExitStack() as stack:
        urls = [
            (await stack.enter_async_context(simulated_vllm(engine))).url for _ in range(ENGINES)
        ]
        made = await stack.enter_async_context(
            cluster(folder, dsn, urls, number, catalog=PRICES, tenants=tenants())
        )
        await asyncio.gather(*(member.start() for member in made.members))
        stubs = [
            inference_pb2_grpc.InferenceServiceStub(
                await stack.enter_async_context(grpc.aio.insecure_channel(member.address))
            )
            for member in made.members
        ]
        turn = itertools.cycle(stubs)
        sums = "prefill_nano_usd + cached_nano_usd + decode_nano_usd + waste_nano_usd"
        rest = "idle_nano_usd + unavailable_nano_usd + external_nano_usd + unobserved_nano_usd"

        async def bill() -> tuple[float, float]:
            [(ns, nano_usd)] = await made.rows(
                "SELECT COALESCE(SUM(paid_ns), 0)::bigint,"
                f" COALESCE(SUM({sums} + {rest}), 0)::bigint FROM pool_account"
                " WHERE span = (SELECT MIN(span) FROM pool_account)"
            )
            return ns / 1e9, nano_usd / 1e9

        found: dict[str, str] = {}
        began_s, before = time.monotonic(), await bill()
        until_s = began_s + LOAD_S
        load: Counter[grpc.StatusCode] = Counter()

        async def client() -> None:
            while time.monotonic() < until_s:
                load[await ask(next(turn), "test")] += 1

        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        first_s = time.monotonic()
        minute = Counter(
            await asyncio.gather(*(ask(next(turn), "minute") for _ in range(4 * PER_MINUTE)))
        )
        took_s = time.monotonic() - first_s
        found["requests a minute: 30 allowed"] = f"{minute[grpc.StatusCode.OK]} in {took_s:.1f} s"
        at_once = Counter(
            await asyncio.gather(
                *(ask(next(turn), "once", max_output_tokens=200) for _ in range(8 * AT_ONCE))
            )
        )
        found["at once: 4 allowed"] = str(at_once[grpc.StatusCode.OK])
        tokens: Counter[grpc.StatusCode] = Counter()
        first_s = time.monotonic()
        while not tokens[grpc.StatusCode.RESOURCE_EXHAUSTED]:  # one after the other
            tokens[await ask(next(turn), "tokens")] += 1
        took_s = time.monotonic() - first_s
        found["until the first refusal: 600 tokens a minute allowed"] = (
            f"{tokens[grpc.StatusCode.OK]} requests in {took_s:.1f} s"
        )
        same = Counter(
            await asyncio.gather(
                *(ask(stub, "test", idempotency_key="same") for stub in stubs for _ in range(2))
            )
        )
        found["runs of one idempotency key"] = str(same[grpc.StatusCode.OK])
        asked = sum(each[grpc.StatusCode.OK] for each in (load, minute, at_once, tokens, same))
        while await made.rows("SELECT COUNT(*) FROM attempt") != [(asked,)]:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        after, now_s = before, time.monotonic()
        while after[0] - before[0] < ENGINES * (now_s - began_s):  # accounts are written in turns
            await asyncio.sleep(0.5)
            after = await bill()
        paid_s, usd = after[0] - before[0], after[1] - before[1]
        found["bill, $ for the servers' time"] = f"{paid_s / 3600 * USD_PER_HOUR:.5f}"
        found["bill, $ in all accounts"] = f"{usd:.5f}"
        [(metered, charged, rows)] = await made.rows(
            "SELECT SUM(metered_nano_usd)::bigint, SUM(charged_nano_usd)::bigint, COUNT(*)"
            " FROM attempt"
        )
        found["metered to requests, of the bill"] = f"{metered / 1e9 / usd:.0%}"
        found["charged, nano-$ a request"] = f"{charged / rows:.2f}"
        found["requests answered, booked"] = f"{asked}, {rows}"
        return found


def money(fronts: Sequence[int]) -> None:
    """Prints the table."""
    columns: list[dict[str, str]] = []
    with running_postgres() as postgres, tempfile.TemporaryDirectory() as folder:
        for number in fronts:
            here = Path(folder) / str(number)
            here.mkdir()
            columns.append(asyncio.run(measure(postgres, here, number)))
            print(number, columns[-1], flush=True)
    table = Table(title="money and limits")
    table.add_column("gateways")
    for number in fronts:
        table.add_column(str(number), justify="right")
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    Console(width=100).print(table)
