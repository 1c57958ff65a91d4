"""A quarter of a fleet, event by event: what the meter and the ledger of a gateway would see, and
apart from them what every hour cost and whose it was."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from gateway.accounting.ledger.append import register_epoch
from gateway.accounting.ledger.database import Database
from gateway.accounting.ledger.leases import Owner
from gateway.accounting.ledger.rows import INSERT, bare_row
from gateway.accounting.pool_accounts import PoolAccounts, open_pool_accounts
from gateway.accounting.rollups.fold import fold
from scheduler.metering.cost import GroupMeter
from scheduler.metering.meter import Meter, MeteredGroup
from scheduler.metering.runs import Run
from scheduler.metering.totals import HOUR_NS, RateSegment, bill_nano_usd
from scheduler.step_time.step_model import QWEN3_30B_H100

BEGIN_HOUR = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) // 3600
HOURS = 90 * 24
MINUTE_NS = HOUR_NS // 60
TENANTS = ("search", "ads", "mail")
PRICE_CHANGE_NS = (BEGIN_HOUR + 40 * 24 + 7) * HOUR_NS + HOUR_NS // 2
PLANS = {
    "own": (
        RateSegment(start_ns=0, nano_usd_per_hour=2_500_000_000),
        RateSegment(start_ns=PRICE_CHANGE_NS, nano_usd_per_hour=2_100_000_000),
    ),
    "big": (RateSegment(start_ns=0, nano_usd_per_hour=19_999_999_998),),
}
GROUPS = {"own/a": "own", "own/b": "own", "big/a": "big"}
BOOK_HOURS = 6


def bill(pool: str, from_hour: int, to_hour: int) -> int:
    """Time x price of a pool's groups."""
    count = sum(name == pool for name in GROUPS.values())
    return count * bill_nano_usd(PLANS[pool], from_hour * HOUR_NS, to_hour * HOUR_NS)


@dataclass(slots=True)
class Process:
    """A gateway process: its meter, its accounts, and its rows."""

    owner: Owner
    accounts: PoolAccounts
    meter: Meter
    running: list[tuple[int, str, Run, dict[str, Any]]] = field(default_factory=list)
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    seq: int = 0

    def group(self, name: str) -> GroupMeter:
        meter = self.meter.group(name)
        assert meter is not None
        return meter


def metered_by(process: Process) -> int:
    """What a meter has booked to requests and waste, in its unit."""
    sums = [process.group(name).totals for name in GROUPS]
    return sum(totals.requests + totals.waste for totals in sums)


@dataclass(slots=True)
class Quarter:
    """The run and the truth of it, in nano-USD: by hour and tenant, by hour and account."""

    database: Database
    chance: random.Random
    used: dict[tuple[int, str, str], int] = field(default_factory=lambda: defaultdict(int))
    """By hour, tenant and pool ("" for the remote)."""
    unobserved: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    unavailable: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    metered: int = 0
    """What the meters had booked to requests and waste, in the meter's unit."""
    corrections: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    charged: dict[int, int] = field(default_factory=lambda: defaultdict(int))

    async def start(self, epoch: str, at_ns: int) -> Process:
        """A process starts, and takes the accounts over."""
        owner = Owner("cluster", epoch)
        await self.database.write(lambda tx: register_epoch(tx, epoch))
        accounts = await open_pool_accounts(self.database, owner)
        assert accounts.held
        before = accounts.checkpoint
        meter = Meter(before)
        meter.configure(
            [
                MeteredGroup(
                    name=name,
                    pool=pool,
                    model=QWEN3_30B_H100,
                    plan=PLANS[pool],
                    max_running=64,
                )
                for name, pool in GROUPS.items()
            ],
            at_ns,
        )
        process = Process(owner, accounts, meter)
        for name in GROUPS:
            process.group(name).set_serving(True, at_ns)
        self.metered -= metered_by(process)
        if before is not None:
            self._spread(self.unobserved, list(GROUPS.values()), before.observed_ns, at_ns)
        return process

    def _spread(self, into: dict[int, int], pools: list[str], from_ns: int, to_ns: int) -> None:
        """Books time x price of one group of each pool, hour by hour."""
        for pool in pools:
            at_ns = from_ns
            while at_ns < to_ns:
                end_ns = min(to_ns, (at_ns // HOUR_NS + 1) * HOUR_NS)
                into[at_ns // HOUR_NS] += bill_nano_usd(PLANS[pool], at_ns, end_ns)
                at_ns = end_ns

    def outage(self, process: Process, group: str, from_ns: int, to_ns: int) -> None:
        """A group without requests is out of service; its ends are whole minutes."""
        process.group(group).set_serving(False, from_ns)
        process.group(group).set_serving(True, to_ns)
        self._spread(self.unavailable, [GROUPS[group]], from_ns, to_ns)

    async def hour(self, process: Process, hour: int) -> None:
        """An hour of load: by day more than by night. Some requests run over its end."""
        count = 2 + (hour % 24) // 4
        starts = sorted(self.chance.randrange(HOUR_NS) for _ in range(count))
        for start in starts:
            at_ns = hour * HOUR_NS + start
            self.end_until(process, at_ns)
            tenant = self.chance.choice(TENANTS)
            if self.chance.random() < 0.2:
                self._remote(process, tenant, at_ns)
                continue
            name = self.chance.choice(list(GROUPS))
            run = process.group(name).start(at_ns, prompt_tokens=self.chance.randint(10, 9000))
            ends_ns = at_ns + self.chance.randint(1, 40 * MINUTE_NS)
            facts = {"tenant": tenant, "waste": self.chance.random() < 0.1}
            process.running.append((ends_ns, name, run, facts))
        self.end_until(process, (hour + 1) * HOUR_NS - 1)

    def end_until(self, process: Process, now_ns: int) -> None:
        """Ends what is due, in order."""
        process.running.sort(key=lambda entry: entry[0])
        while process.running and process.running[0][0] <= now_ns:
            ends_ns, name, run, facts = process.running.pop(0)
            group = process.group(name)
            group.progress(run, 100, ends_ns - 1)
            share = group.end(
                run, ends_ns, uncached_tokens=50, output_tokens=100, waste=facts["waste"]
            )
            cost = share.uncached_input + share.cached_input + share.output
            charged = 0 if facts["waste"] else cost // 2
            self._row(process, ends_ns, facts["tenant"], name, GROUPS[name], "local", cost, charged)

    def _remote(self, process: Process, tenant: str, at_ns: int) -> None:
        cost = self.chance.randint(1, 10**8)
        self._row(process, at_ns, tenant, "cloud", "", "remote", cost, cost)

    def _row(
        self,
        process: Process,
        at_ns: int,
        tenant: str,
        placement: str,
        pool: str,
        kind: str,
        cost: int,
        charged: int,
    ) -> None:
        hour = at_ns // HOUR_NS
        self.used[hour, tenant, pool] += cost
        self.charged[hour] += charged
        facts: dict[str, Any] = {
            "epoch": process.owner.epoch,
            "seq": process.seq,
            "state": "final",
            "attempt": 1,
            "key_id": f"{tenant}-key",
            "tenant": tenant,
            "model": "moe",
            "placement": placement,
            "pool": pool,
            "kind": kind,
            "outcome": "ok" if charged else "retryable",
            "started_unix_us": at_ns // 1000,
            "ended_unix_us": at_ns // 1000,
            "prompt_tokens": 50,
            "cached_tokens": 0,
            "completion_tokens": 100,
            "metered_nano_usd": cost,
            "charged_nano_usd": charged,
        }
        process.seq += 1
        process.rows.append(bare_row(**facts))

    async def write(self, process: Process) -> None:
        """Writes the waiting rows, and adds them to the sums."""
        rows, process.rows = process.rows, []
        await self.database.write(lambda tx: tx.many(INSERT, rows))
        await self.database.write(lambda tx: fold(tx, 700))

    async def correct(self, hour: int, number: int) -> None:
        """A correction of a charge."""
        epoch = f"correction-{number}"
        row = bare_row(
            epoch=epoch,
            seq=0,
            state="correction",
            tenant="ads",
            kind="local",
            started_unix_us=0,
            ended_unix_us=hour * 3_600_000_000 + 5,
            charged_nano_usd=-number,
        )
        await self.database.write(lambda tx: register_epoch(tx, epoch))
        await self.database.write(lambda tx: tx.many(INSERT, [row]))
        self.corrections[hour] -= number
