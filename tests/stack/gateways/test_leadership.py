"""The lease and the fence on a real PostgreSQL: clocks that are wrong, a leader that is stopped, a
network that is cut, a database that is slow."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import asyncpg
import msgspec
import pytest

from gateway.accounting.accounting import Accounting, open_accounting
from gateway.accounting.ledger.database import LedgerFenced, LedgerUnavailable, Tx
from gateway.accounting.ledger.postgres import (
    LEADER_TABLE,
    Fence,
    PostgresDatabase,
    PostgresTx,
    connect,
)
from gateway.config.gateway import GatewayConfig
from gateway.config.ledger import BudgetConfig, LedgerConfig
from gateway.config.values import SecretConfig
from gateway.leadership.candidate import MARGIN
from gateway.leadership.leadership import Leadership, lease_clock
from gateway.leadership.lease_row import LeaderBefore, LeaseRow
from scheduler.budgets.budget_window import Period
from tests.ledgers import settled
from tests.stack.ledger.postgres import Postgres

LEASE_S = 3.0
WAIT_S = 30.0


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def member(
    dsn: str,
    name: str,
    cluster: str = "c",
    clock: Callable[[], float] = lease_clock,
    lease_s: float = LEASE_S,
) -> AsyncIterator[Leadership]:
    found = Leadership(
        name=name,
        address="127.0.0.1:1",
        wire_version=1,
        lease_s=lease_s,
        on_change=lambda: None,
        clock=clock,
    )
    row = LeaseRow(*(dsn, cluster, name, lease_s), *(found.notify_changed, found.notify_too_short))
    running = asyncio.create_task(found.run(row))
    try:
        yield found
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await row.close()


async def lease_row(dsn: str, name: str = "one") -> LeaseRow:
    row = LeaseRow(dsn, "c", name, LEASE_S, lambda: None)
    await row.prepare()
    return row


async def test_the_row_is_taken_renewed_and_released(postgres: Postgres) -> None:
    dsn = await postgres.new_database("row")
    one, two = await asyncio.gather(lease_row(dsn), lease_row(dsn, "two"))
    assert (await one.look()).left_s < 0
    first = await one.take("h:1", 3, 0)
    assert first is not None
    assert first.term == 1
    assert await two.take("h:2", 3, 0) is None
    seen = await two.look()
    assert seen.leader == first
    assert LEASE_S - 1.0 < seen.left_s <= LEASE_S
    assert await one.renew(1, LEASE_S)
    assert not await two.renew(2, LEASE_S)
    await two.release(2)  # of no effect
    assert await one.renew(1, LEASE_S)
    await one.release(1)
    assert not await one.renew(1, LEASE_S)
    second = await two.take("h:2", 3, 0)
    assert second is not None
    assert second.term == 2
    await asyncio.gather(one.close(), two.close())


async def test_many_take_at_once_and_one_gets_it(postgres: Postgres) -> None:
    dsn = await postgres.new_database("many")
    rows = await asyncio.gather(*(lease_row(dsn, f"p{i}") for i in range(8)))
    taken = await asyncio.gather(*(row.take("h:1", 1, 0) for row in rows))
    assert [leader.term for leader in taken if leader is not None] == [1]
    await asyncio.gather(*(row.close() for row in rows))


async def test_clusters_share_a_database(postgres: Postgres) -> None:
    dsn = await postgres.new_database("clusters")
    async with member(dsn, "one", "east") as one, member(dsn, "two", "west") as two:
        await until(lambda: one.term == 1 and two.term == 1)


async def test_the_connection_shows_whether_the_process_lives(postgres: Postgres) -> None:
    dsn = await postgres.new_database("lives")
    one, two = await asyncio.gather(lease_row(dsn), lease_row(dsn, "two"))
    assert await one.take("h:1", 1, 0) is not None
    assert await two.members() == 2
    assert await two.take("h:2", 1, 1) is None, "it is connected"
    await one.close()
    assert await two.take("h:2", 1, 7) is None, "that is not the leader"
    async with asyncio.timeout(LEASE_S):
        while (leader := await two.take("h:2", 1, 1)) is None:
            await asyncio.sleep(0.01)
    assert leader.term == 2
    await two.close()


class Named:
    """The fronts of a leader; None: it does not know them."""

    def __init__(self, *names: str, known: bool = True) -> None:
        self.found = frozenset(names) if known else None
        self.written: list[frozenset[str]] = []

    def names(self) -> frozenset[str] | None:
        return self.found

    def renewed(self, names: Iterable[str] | None) -> None:
        if names is not None:
            self.written.append(frozenset(names))


ALL = "one", "two", "three"


def before(
    *names: str, complete: bool = True, gone: bool = False, missed: str | None = None
) -> LeaderBefore:
    return LeaderBefore(
        len(names), complete=complete, gone=gone, names=frozenset(names), missed=missed
    )


async def taken(row: LeaseRow, gone: int = 0) -> LeaderBefore:
    """Takes the lease as soon as it can be had."""
    async with asyncio.timeout(WAIT_S):
        while await row.take("h:1", 3, gone) is None:
            await asyncio.sleep(0.02)
    return row.before


async def test_the_next_leader_knows_which_fronts_to_expect(postgres: Postgres) -> None:
    dsn = await postgres.new_database("expected")
    one, two = await asyncio.gather(lease_row(dsn), lease_row(dsn, "two"))
    for row in (one, two):
        row.fronts = Named(*ALL)
    assert await one.take("h:1", 3, 0)
    assert await one.renew(1, LEASE_S)
    await one.release(1)
    assert await two.take("h:2", 3, 0)
    assert two.before == before(*ALL, missed=""), "its own front comes back, too"
    assert await two.renew(2, LEASE_S)
    await two.close()
    async with asyncio.timeout(WAIT_S):  # until the database has noticed
        while not await one.take("h:1", 3, 2):
            await asyncio.sleep(0.01)
    assert one.before == before("one", "three", complete=False, gone=True, missed="two")
    assert await one.renew(3, LEASE_S)
    async with asyncio.timeout(WAIT_S):
        while not await two.take("h:2", 3, 0):
            await asyncio.sleep(0.05)
    found = before("two", "three", complete=False, missed="one")
    assert two.before == found, "stopped or cut off, it may come back"
    await asyncio.gather(one.close(), two.close())


async def test_a_leader_that_failed_before_it_knew_its_fronts_is_not_expected_either(
    postgres: Postgres,
) -> None:
    dsn = await postgres.new_database("in_turn")
    one, two, three = await asyncio.gather(*(lease_row(dsn, name) for name in ALL))
    one.fronts = Named(*ALL)
    two.fronts = three.fronts = Named(known=False)
    assert await one.take("h:1", 3, 0)
    assert await one.renew(1, LEASE_S)
    assert await taken(two) == before("two", "three", complete=False, missed="one")
    assert await two.renew(2, LEASE_S)
    await two.close()
    found = await taken(three, gone=2)
    assert found == before("three", complete=False), "the first one may still run requests"
    await three.release(3)
    assert await taken(one) == before("three", complete=False)
    await asyncio.gather(one.close(), three.close())


async def test_a_front_is_named_once_the_renewal_was_written(postgres: Postgres) -> None:
    dsn = await postgres.new_database("named")
    one, two = await asyncio.gather(lease_row(dsn), lease_row(dsn, "two"))
    listed = one.fronts = Named("one")
    assert await one.take("h:1", 3, 0)
    assert await one.renew(1, LEASE_S)
    listed.found = frozenset(("one", "two"))
    assert listed.written == [{"one"}]
    assert await one.renew(1, LEASE_S)
    assert listed.written[1:] == [{"one", "two"}]
    assert await taken(two) == before("two", complete=False, missed="one")
    assert not await one.renew(1, LEASE_S)
    assert len(listed.written) == 2
    await asyncio.gather(one.close(), two.close())


BEFORE_TAKE = """
UPDATE leader SET term = term + 1, name = $1, expires_at = clock_timestamp() + INTERVAL '3 seconds',
  fronts = CASE WHEN expires_at = '-infinity' THEN fronts ELSE -GREATEST(ABS(fronts), 1) END"""
BEFORE_RENEW = """
UPDATE leader SET expires_at = clock_timestamp() + INTERVAL '3 seconds', fronts = $1"""


async def test_a_leader_of_the_version_before_counts_its_fronts(postgres: Postgres) -> None:
    """It has made the table, and it writes no names: those of an earlier term say nothing."""
    dsn = await postgres.new_database("upgraded")
    old = await asyncpg.connect(dsn)
    await old.execute(LEADER_TABLE)
    await old.execute("INSERT INTO leader VALUES ('c', 1, 'old', 'h:1', 3, 2, '-infinity')")
    one = await lease_row(dsn)
    one.fronts = Named(*ALL)
    assert await taken(one) == LeaderBefore(2, complete=True)
    assert await one.renew(2, LEASE_S)
    await one.release(2)
    await old.execute(BEFORE_TAKE, "old")
    assert await old.fetchval("SELECT fronts FROM leader") == 3
    await old.execute(BEFORE_RENEW, 4)
    assert await taken(one) == LeaderBefore(3, complete=False)
    assert await one.renew(4, LEASE_S)
    await one.release(4)
    assert await taken(one) == before(*ALL, missed="")
    await asyncio.gather(one.close(), old.close())


async def test_a_leader_that_does_not_know_its_fronts_leaves_what_the_row_says(
    postgres: Postgres,
) -> None:
    """It gave its lease back before its scheduler had started, or while that ended."""
    dsn = await postgres.new_database("unknown")
    one, two = await asyncio.gather(lease_row(dsn), lease_row(dsn, "two"))
    one.fronts = Named(*ALL)
    assert await one.take("h:1", 3, 0)
    assert await one.renew(1, LEASE_S)
    await one.release(1)
    two.fronts = Named(known=False)
    assert await two.take("h:2", 3, 0)
    assert await two.renew(2, LEASE_S)
    await two.release(2)
    assert await one.take("h:1", 3, 0)
    assert one.before == before(*ALL, missed="")
    await asyncio.gather(one.close(), two.close())


async def test_a_notification_comes_before_the_next_look(postgres: Postgres) -> None:
    dsn = await postgres.new_database("notified")
    async with member(dsn, "one") as one:
        await until(lambda: one.term)
        async with member(dsn, "two") as two:
            await until(lambda: two.leader is not None)
            one.withdraw()
            await one.withdrawn(WAIT_S)
            await until(lambda: two.term == 2)
            await until(lambda: one.leader == two.leader)


@pytest.mark.parametrize("offset_s", [-86_400.0, 0.0, 86_400.0])
async def test_clocks_of_processes_may_be_wrong(postgres: Postgres, offset_s: float) -> None:
    dsn = await postgres.new_database("skew")
    leading: list[tuple[int, int]] = []
    async with (
        member(dsn, "one") as one,
        member(dsn, "two", clock=lambda: lease_clock() + offset_s) as two,
    ):
        for term in range(1, 4):
            async with asyncio.timeout(WAIT_S):
                while max(one.term, two.term) < term:
                    leading.append((one.term, two.term))
                    await asyncio.sleep(0.005)
            (one if one.term else two).resign(0.5)
    assert all(0 in pair for pair in leading)


async def test_the_wall_clock_of_a_process_does_not_matter(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = await postgres.new_database("wall")
    monkeypatch.setattr("time.time", lambda: 4e9)
    async with member(dsn, "one") as one:
        await until(lambda: one.term)
        monkeypatch.setattr("time.time", lambda: 1.0)
        began_s = lease_clock()
        await until(lambda: lease_clock() > began_s + LEASE_S + 1.0)
        assert one.term == 1


@contextlib.asynccontextmanager
async def locked(dsn: str) -> AsyncIterator[None]:
    """The row is locked by a connection that does nothing else: no renewal gets through."""
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            await connection.execute("SELECT 1 FROM leader FOR UPDATE")
            yield
    finally:
        await connection.close()


async def test_a_slow_database_ends_the_term_before_another_begins(postgres: Postgres) -> None:
    dsn = await postgres.new_database("slow")
    async with member(dsn, "one") as one, member(dsn, "two") as two:
        await until(lambda: one.term or two.term)
        async with locked(dsn):
            await until(lambda: not one.term and not two.term)
            row = await lease_row(dsn, "looks")
            assert (await row.look()).left_s > 0, "it has stopped before the lease ends"
            await row.close()
        await until(lambda: one.term or two.term)
        assert max(one.term, two.term) >= 2


async def left_s(dsn: str) -> float:
    row = await lease_row(dsn, "looks")
    found = (await row.look()).left_s
    await row.close()
    return found


async def test_a_stall_that_ends_a_short_lease_makes_the_next_ones_long(postgres: Postgres) -> None:
    dsn = await postgres.new_database("stalls")
    async with (
        member(dsn, "one", lease_s=2 * LEASE_S) as one,
        member(dsn, "two", lease_s=2 * LEASE_S) as two,
    ):
        await until(lambda: one.term or two.term)
        async with asyncio.timeout(4 * WAIT_S):  # a machine that is busy answers late
            while not 0 < await left_s(dsn) <= LEASE_S:
                await asyncio.sleep(0.1)
        async with locked(dsn):
            await until(lambda: not one.term and not two.term)
        # Both are warned.
        await until(lambda: one.lease_s == two.lease_s == 2 * LEASE_S)
        await until(lambda: one.term or two.term)


async def test_a_renewal_does_not_shorten_the_lease(postgres: Postgres) -> None:
    dsn = await postgres.new_database("shorter")
    one = await lease_row(dsn)
    assert await one.take("h:1", 3, 0)
    assert await one.renew(1, 60.0)
    assert await one.renew(1, LEASE_S)
    assert (await one.look()).left_s > 2 * LEASE_S
    await one.close()


async def test_a_database_that_goes_away_and_comes_back(postgres: Postgres) -> None:
    dsn = await postgres.new_database("away")
    async with member(dsn, "one") as one:
        await until(lambda: one.term)
        postgres.stop()
        try:
            await until(lambda: not one.term)
        finally:
            postgres.start()
        await until(lambda: one.term == 2)


# The fence.


async def leads(dsn: str, term: int) -> None:
    """Some process leads in this term."""
    row = await lease_row(dsn, "any")
    await row._rows(
        "UPDATE leader SET term = $1, expires_at = 'infinity' WHERE cluster = 'c'", term
    )
    await row.close()


def a_write(tx: Tx) -> object:
    return tx.run("INSERT INTO gateway (name, epoch, seen_unix_us) VALUES ('x', 'y', 1)")


async def gateways(database: PostgresDatabase) -> list[str]:
    rows = await database.read(lambda tx: tx.rows("SELECT name FROM gateway"))
    return [name for (name,) in rows]


async def test_an_old_leader_cannot_write(postgres: Postgres) -> None:
    dsn = await postgres.new_database("fence")
    await leads(dsn, 1)
    old = await connect(dsn, "c", Fence("c", 1))
    await old.write(a_write)  # type: ignore[arg-type]
    assert await gateways(old) == ["x"]
    await old.write(lambda tx: tx.run("DELETE FROM gateway"))
    await leads(dsn, 2)
    with pytest.raises(LedgerFenced, match="term 1 of cluster c is over"):
        await old.write(a_write)  # type: ignore[arg-type]
    assert await gateways(old) == [], "reads go on"
    await old.close()


async def test_reads_cannot_write(postgres: Postgres) -> None:
    dsn = await postgres.new_database("reads")
    await leads(dsn, 1)
    database = await connect(dsn, "c", Fence("c", 1))
    with pytest.raises(LedgerUnavailable, match="ReadOnly"):
        await database.read(a_write)  # type: ignore[arg-type]
    await database.close()


async def test_a_new_term_waits_for_a_commit_that_has_passed_the_fence(postgres: Postgres) -> None:
    dsn = await postgres.new_database("order")
    row = await lease_row(dsn)
    assert await row.take("h:1", 1, 0) is not None
    database = await connect(dsn, "c", Fence("c", 1))
    renewed: list[bool] = []
    taken: list[asyncio.Task[object]] = []

    async def transaction(tx: Tx) -> None:
        await a_write(tx)  # type: ignore[misc]
        await Fence("c", 1).check(tx)
        renewed.append(await row.renew(1, LEASE_S))  # the leader's own renewals do not wait
        await row.release(1)
        taken.append(asyncio.ensure_future(row.take("h:2", 1, 0)))
        done, _ = await asyncio.wait(taken, timeout=0.3)
        assert not done

    await database.write(transaction)
    assert renewed == [True]
    assert await taken[0] is not None
    assert await gateways(database) == ["x"]
    await asyncio.gather(row.close(), database.close())


async def test_a_writer_that_is_stopped_after_the_fence_does_not_hold_up_the_next_leader(
    postgres: Postgres,
) -> None:
    dsn = await postgres.new_database("stopped")
    row = await lease_row(dsn)
    assert await row.take("h:1", 1, 0) is not None
    database = await connect(dsn, "c", Fence("c", 1))

    async def transaction(tx: Tx) -> None:
        await a_write(tx)  # type: ignore[misc]
        await Fence("c", 1).check(tx)
        async with asyncio.timeout(WAIT_S):
            await row.release(1)
            while True:
                with contextlib.suppress(LedgerUnavailable):
                    if await row.take("h:2", 1, 0) is not None:
                        return

    with pytest.raises(LedgerUnavailable):
        await database.write(transaction)  # the database has ended its connection
    assert await gateways(database) == []
    await asyncio.gather(row.close(), database.close())


async def test_a_writer_that_is_cut_off_amid_a_statement_does_not_hold_up_the_next_leader(
    postgres: Postgres,
) -> None:
    dsn = await postgres.new_database("amid")
    await leads(dsn, 1)
    old = await connect(dsn, "c", Fence("c", 1))
    await old.write(a_write)  # type: ignore[arg-type]
    holds = asyncio.Event()

    async def transaction(tx: Tx) -> None:
        assert isinstance(tx, PostgresTx)
        await tx.run("UPDATE gateway SET epoch = 'old'")
        await tx._connection.prepare("SELECT 2")  # parsed, and never executed
        holds.set()
        await asyncio.Event().wait()

    writing = asyncio.create_task(old.write(transaction))
    async with asyncio.timeout(WAIT_S):
        await holds.wait()
        await leads(dsn, 2)
        new = await connect(dsn, "c", Fence("c", 2))
        await new.write(lambda tx: tx.run("UPDATE gateway SET epoch = 'new'"))
    writing.cancel()
    await asyncio.wait([writing])
    await asyncio.gather(old.close(), new.close())


async def test_a_cancelled_transaction_stays_cancelled_where_its_connection_is_lost(
    postgres: Postgres,
) -> None:
    """Otherwise a task that tries again after a failure would never end."""
    dsn = await postgres.new_database("cancelled")
    database = await connect(dsn, "c")
    began = asyncio.Event()

    async def transaction(tx: Tx) -> None:
        [(pid,)] = await tx.rows("SELECT pg_backend_pid()")
        other = await asyncpg.connect(dsn)
        await other.execute("SELECT pg_terminate_backend($1)", pid)
        await other.close()
        began.set()
        await asyncio.sleep(WAIT_S)

    writing = asyncio.create_task(database.write(transaction))
    await began.wait()
    await asyncio.sleep(0.2)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    await database.close()


def settings(dsn: str, folder: Path) -> GatewayConfig:
    (folder / "dsn").write_text(dsn)
    (folder / "dsn").chmod(0o600)
    return msgspec.structs.replace(
        GatewayConfig(),
        ledger=LedgerConfig(postgres=SecretConfig(file="dsn")),
        budgets=(BudgetConfig(tenant="team", period=Period.MONTH, cap_usd="1000.00"),),
    )


async def rows_of(dsn: str) -> list[str]:
    connection = await asyncpg.connect(dsn)
    try:
        found = await connection.fetch(
            "SELECT request_id FROM attempt WHERE request_id <> '' ORDER BY 1"
        )
    finally:
        await connection.close()
    return [request_id for (request_id,) in found]


async def written(made: Accounting, rows: int) -> None:
    await until(lambda: made.ledger.status.written_rows >= rows or made.ledger.status.error)


async def test_settlements_and_budgets_of_an_old_leader_are_refused(
    postgres: Postgres, tmp_path: Path
) -> None:
    dsn = await postgres.new_database("settlements")
    config = settings(dsn, tmp_path)
    await leads(dsn, 1)
    async with open_accounting(config, tmp_path, fence=Fence("c", 1)) as old:
        old.record_attempt(settled("first", charged=5))
        await written(old, 1)
        holder = old.budgets.holder("team", "key", "")
        assert holder is not None
        await old.budgets.reserve("first", holder, 1000)
        await leads(dsn, 2)
        async with open_accounting(config, tmp_path, fence=Fence("c", 2)) as new:
            old.record_attempt(settled("late", charged=7))
            await until(lambda: old.ledger.status.error)
            assert "term 1 of cluster c is over" in old.ledger.status.error
            new.record_attempt(settled("second", charged=6))
            await written(new, 1)
    assert await rows_of(dsn) == ["first", "second"]


def test_the_leader_stops_first() -> None:
    assert MARGIN > 0
