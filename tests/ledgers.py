"""What tests of the ledger share: settled attempts with defaults, and sums over its rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from gateway.accounting.ledger.database import Dialect, Tx
from gateway.accounting.ledger.migrations import apply_next
from gateway.accounting.ledger.sqlite import SqliteTx, run_now
from gateway.server import RunningGateway
from scheduler.contract import AttemptOutcome, PlacementKind, SloClass, Usage
from scheduler.metering.rate_snapshot import RateSnapshot
from scheduler.metering.settlement import SettledAttempt
from scheduler.pricing import RateTier, TokenRates

T = TypeVar("T")
TIME_S = 1_800_000_000.0
USAGE = Usage(prompt_tokens=10, completion_tokens=5, cached_tokens=4)


def settled(
    request_id: str = "key/1",
    *,
    charged: int | None = 100,
    key_id: str = "key",
    tenant: str = "team",
    session_id: str = "",
    model: str = "moe",
    placement: str = "own/a",
    usage: Usage | None = USAGE,
    outcome: AttemptOutcome = AttemptOutcome.OK,
    attempt: int = 1,
    ended_unix_s: float = TIME_S,
) -> SettledAttempt:
    """An attempt of one second."""
    return SettledAttempt(
        request_id=request_id,
        attempt=attempt,
        key_id=key_id,
        tenant=tenant,
        session_id=session_id,
        model=model,
        slo_class=SloClass.INTERACTIVE,
        placement=placement,
        pool=placement.partition("/")[0],
        kind=PlacementKind.SELF_HOSTED,
        outcome=outcome,
        started_unix_s=ended_unix_s - 1.0,
        ended_unix_s=ended_unix_s,
        usage=usage,
        metered_nano_usd=None if charged is None else 2 * charged,
        charged_nano_usd=charged,
        basis=None,
        price_row_id="row",
        parts=(),
        cheapest_remote_nano_usd=None,
        final=outcome is not AttemptOutcome.RETRYABLE,
    )


class Reader(Protocol):
    """What can be asked: a database, or a file of another process."""

    async def read(self, transaction: Callable[[Tx], Awaitable[T]]) -> T:
        """See `Database`."""


class FileReader:
    """A ledger's file that a gateway writes to, looked at from outside."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10.0)

    async def read(self, transaction: Callable[[Tx], Awaitable[T]]) -> T:
        """See `Database`."""
        return run_now(transaction(SqliteTx(self._connection)))


def make_tables(connection: sqlite3.Connection) -> None:
    """The ledger's schema in a database that nobody else has."""
    while run_now(apply_next(SqliteTx(connection), Dialect.SQLITE)):
        pass


async def one(database: Reader, sql: str, *values: object) -> int:
    """The single number of a query."""

    async def query(tx: Tx) -> int:
        [(number,)] = await tx.rows(sql, *values)
        return int(number or 0)

    return await database.read(query)


async def booked(database: Reader) -> int:
    """All charges of the ledger, nano-USD."""
    return await one(database, "SELECT CAST(SUM(charged_nano_usd) AS BIGINT) FROM attempt")


NANO = 1_000_000
RATES = TokenRates(
    row_id="test",
    tiers=(RateTier(uncached_input=NANO, cached_input=NANO, cache_write=NANO, output=NANO),),
)
"""1 nano-USD a token."""


def a_nano_dollar_a_token(gateway: RunningGateway, placements: Sequence[str] = ("own/a",)) -> None:
    """Gives placements a price, from now on."""
    gateway.scheduler.use_rates(RateSnapshot(rates=dict.fromkeys(placements, RATES)))
