"""What the ledger and budgets cost: settlements a second on SQLite, and CPU per request.

    python -m benchmarks.ledger.writing [--rows 100000] [--seconds 3]

1. Rows as fast as one loop can settle them, through the writer, to the disk.
2. CPU of this process per request of a steady load that reserves, settles and is written. Nothing
   else keeps the processor warm here: what share it is of a gateway, `share` measures.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from pathlib import Path

import msgspec
import uvloop
from msgspec import structs

from gateway.accounting.accounting import Accounting, open_accounting
from gateway.accounting.ledger.database import Tx
from gateway.config.gateway import GatewayConfig, KeyConfig, TenantConfig
from gateway.config.ledger import BudgetConfig, LedgerConfig
from scheduler.budgets.budget_window import Period
from scheduler.contract import AttemptOutcome, PlacementKind, SloClass, Usage
from scheduler.metering.settlement import SettledAttempt

KEYS = 50
CHARGE, WORST = 1_000, 4_000
RATES_PER_S = (100, 500, 1000)
_SETTLED = SettledAttempt(
    request_id="key/request",
    attempt=1,
    key_id="key",
    tenant="team",
    session_id="",
    model="Qwen3-30B-A3B",
    slo_class=SloClass.INTERACTIVE,
    placement="own/a",
    pool="own",
    kind=PlacementKind.SELF_HOSTED,
    outcome=AttemptOutcome.OK,
    started_unix_s=time.time(),
    ended_unix_s=time.time(),
    usage=Usage(prompt_tokens=700, completion_tokens=200, cached_tokens=300),
    metered_nano_usd=CHARGE,
    charged_nano_usd=CHARGE,
    basis=None,
    price_row_id="showback:own:2026-01-01",
    parts=(),
    cheapest_remote_nano_usd=CHARGE,
    final=True,
)


def settings(*, budgets: bool) -> GatewayConfig:
    """Keys of one tenant; with budgets, a day's for each key and a month's for all."""
    keys = tuple(KeyConfig(id=f"key{i}", sha256=f"{i:064x}") for i in range(KEYS))
    config = GatewayConfig(
        tenants=(TenantConfig(name="team", keys=keys),),
        ledger=LedgerConfig(backlog_rows=10_000_000),
    )
    if not budgets:
        return config
    caps = [
        BudgetConfig(tenant="team", key=key.id, period=Period.DAY, cap_usd="1000") for key in keys
    ]
    caps.append(BudgetConfig(tenant="team", period=Period.MONTH, cap_usd="100000"))
    return msgspec.structs.replace(config, budgets=tuple(caps))


def requests(count: int) -> list[SettledAttempt]:
    """Attempts of requests of all keys in turn: made before anything is measured."""
    return [
        structs.replace(_SETTLED, request_id=f"key{i % KEYS}/{i}", key_id=f"key{i % KEYS}")
        for i in range(count)
    ]


async def one_request(opened: Accounting, settled: SettledAttempt) -> None:
    """Reserves, settles and releases."""
    holder = opened.budgets.holder("team", settled.key_id, "")
    if holder is not None:
        await opened.budgets.reserve(settled.request_id, holder, WORST)
    opened.record_attempt(settled)
    opened.budgets.release(settled.request_id)


async def until_written(opened: Accounting) -> None:
    """Waits for the last commit."""

    async def nothing(_: Tx) -> None:
        pass

    await opened.ledger.after_rows(nothing, 600.0)


async def throughput(rows: int) -> None:
    """Settlements a second, to the last commit."""
    for name, budgets in (("no budgets", False), (f"{KEYS} keys with budgets", True)):
        with tempfile.TemporaryDirectory() as folder:
            async with open_accounting(settings(budgets=budgets), Path(folder)) as opened:
                made = requests(rows)
                began_s, cpu_s = time.perf_counter(), time.process_time()
                for number, settled in enumerate(made):
                    await one_request(opened, settled)
                    if number % 100 == 0:
                        await asyncio.sleep(0)
                await until_written(opened)
                took_s = time.perf_counter() - began_s
                cpu_us = (time.process_time() - cpu_s) / rows * 1e6
                size = os.stat(f"{folder}/{LedgerConfig().sqlite}").st_size
        print(
            f"{name}: {rows / took_s:,.0f} settlements/s, {cpu_us:.0f} us of CPU each,"
            f" {size / rows:.0f} bytes each (aim: 5,000/s)"
        )


async def share(seconds: float) -> None:
    """CPU per request at steady rates, what building a request here costs left out."""
    for rate in RATES_PER_S:
        with tempfile.TemporaryDirectory() as folder:
            async with open_accounting(settings(budgets=True), Path(folder)) as opened:
                for settled in requests(KEYS):  # their leases: made once, then they last
                    await one_request(opened, settled)
                await until_written(opened)
                idle_us = await _paced(seconds, rate, None)
                busy_us = await _paced(seconds, rate, opened)
                await until_written(opened)
                cost_us = busy_us - idle_us
                wait_ms = opened.ledger.status.longest_wait_s * 1000
        print(
            f"{rate} requests/s: {cost_us:.0f} us of CPU each; rows came to the database within "
            f"{wait_ms:.0f} ms"
        )


async def _paced(seconds: float, rate: int, opened: Accounting | None) -> float:
    """CPU of a request at a steady rate, microseconds; None: of the pace alone."""
    made = requests(round(seconds * rate))
    began_s, cpu_s = time.perf_counter(), time.process_time()
    for number, settled in enumerate(made):
        if opened is not None:
            await one_request(opened, settled)
        due_s = began_s + (number + 1) / rate
        await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
    return (time.process_time() - cpu_s) / len(made) * 1e6


def main() -> None:
    """Prints both."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each steady load")
    args = parser.parse_args()
    uvloop.run(throughput(args.rows))
    uvloop.run(share(args.seconds))


if __name__ == "__main__":
    main()
