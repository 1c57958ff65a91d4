"""The spool: rows that a killed process had taken are in the ledger after the next start, once."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.accounting.accounting import open_accounting
from gateway.accounting.ledger.database import LedgerUnusable
from gateway.accounting.ledger.ledger import BATCH_ROWS
from gateway.accounting.ledger.ledger import Ledger as Writer
from gateway.accounting.ledger.rows import PendingRow, pending_row
from gateway.accounting.ledger.spool import Spool
from gateway.accounting.ledger.sqlite import SqliteDatabase
from gateway.config.gateway import GatewayConfig
from gateway.config.ledger import BudgetConfig, LedgerConfig
from gateway.config.problems import ConfigError
from scheduler.budgets.budget_window import Period
from tests.ledgers import booked, one, settled
from tests.serving import until

BUDGET = BudgetConfig(tenant="team", key="capped", period=Period.MONTH, cap_usd="1.0")
CONFIG = msgspec.structs.replace(
    GatewayConfig(), ledger=LedgerConfig(retain_days=36_500, gateway="gw"), budgets=(BUDGET,)
)
SPOOL = f"{LedgerConfig().sqlite}.spool"
ROWS = "SELECT COUNT(*) FROM attempt WHERE attempt > 0"
RECOVERIES = "SELECT COUNT(*) FROM attempt WHERE state = 'lease_recovery'"


def row(number: int) -> PendingRow:
    return pending_row(settled(f"key/{number}", charged=number), None)


def numbers(spool: Spool) -> list[tuple[str, int]]:
    """Epochs and numbers of the rows of a spool; each is the row of its number."""
    found = []
    for run in spool.unwritten_rows():
        for place, kept in enumerate(run.rows):
            assert kept == row(run.first_seq + place)
            found.append((run.epoch, run.first_seq + place))
    return found


def size_bytes(path: Path) -> int:
    """Of both files."""
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))


@contextlib.contextmanager
def opened(path: Path, epoch: str) -> Iterator[Spool]:
    spool = Spool(path, epoch)
    try:
        yield spool
    finally:
        spool.close()


@settings(deadline=None, max_examples=60)
@given(
    steps=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), max_size=12),
    cut=st.integers(0, 400),
)
def test_what_the_database_does_not_have_is_always_in_it(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int]], cut: int
) -> None:
    """Rows come, batches of all that wait are cut, more rows come before the batch is written."""
    path = tmp_path_factory.mktemp("spool") / "spool"
    taken = written = 0
    with opened(path, "first") as spool:
        for before, meanwhile in steps:
            for _ in range(before):
                spool.append(taken, row(taken))
                taken += 1
            batch = taken
            spool.swap_files(written)
            for _ in range(meanwhile):
                spool.append(taken, row(taken))
                taken += 1
            assert {seq for _, seq in numbers(spool)} >= set(range(written, taken))
            written = batch
        found = numbers(spool)
    assert found == sorted(set(found))
    with opened(path, "second") as spool:
        assert numbers(spool) == found
        spool.clear()
        assert numbers(spool) == []
        for seq in range(3):
            spool.append(seq, row(seq))
    # A record that the machine's end has cut short is none, and neither is what follows it.
    size = path.stat().st_size
    os.truncate(path, max(0, size - cut))
    with opened(path, "third") as spool:
        kept = numbers(spool)
        assert kept == [("second", seq) for seq in range(len(kept))]
        assert len(kept) == 3 if cut == 0 else len(kept) < 3


def copy(folder: Path, to: Path) -> None:
    """A folder as a kill of its gateway would leave it."""
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*.lock"))


async def test_rows_of_a_killed_gateway_are_there_after_the_next_start(tmp_path: Path) -> None:
    async with open_accounting(CONFIG, tmp_path / "a") as made:
        holder = made.budgets.holder("team", "capped", "")
        assert holder is not None
        await made.budgets.reserve("capped/0", holder, 2000)
        for i in range(40):
            made.record_attempt(settled(f"key/{i}", charged=1))
        made.record_attempt(settled("capped/0", charged=700, key_id="capped"))
        copy(tmp_path / "a", tmp_path / "b")  # the loop had no turn: no row is in the database
    async with open_accounting(CONFIG, tmp_path / "b") as made:
        assert await one(made.database, ROWS) == 41
        assert await one(made.database, RECOVERIES) == 1
        committed = await one(made.database, "SELECT committed_nano_usd FROM account")
        assert committed == await booked(made.database) - 40  # of the key that has no budget
        made.record_attempt(settled("key/41", charged=1))
        await made.write(nothing)  # row 0 of this process, over the spool's old records
        copy(tmp_path / "b", tmp_path / "c")
    async with open_accounting(CONFIG, tmp_path / "c") as made:
        assert await one(made.database, ROWS) == 42
        assert await one(made.database, RECOVERIES) == 1


async def test_an_orderly_end_leaves_nothing(tmp_path: Path) -> None:
    async with open_accounting(CONFIG, tmp_path) as made:
        made.record_attempt(settled("key/0"))
    assert (tmp_path / SPOOL).stat().st_size == (tmp_path / f"{SPOOL}2").stat().st_size == 0


async def test_rows_of_another_ledger_are_refused_and_stay(tmp_path: Path) -> None:
    async with open_accounting(CONFIG, tmp_path / "a") as made:
        made.record_attempt(settled("key/0"))
        copy(tmp_path / "a", tmp_path / "b")
    for file in (tmp_path / "b").glob(f"{LedgerConfig().sqlite}*"):
        if not file.name.startswith(SPOOL):
            file.unlink()
    for _ in range(2):
        with pytest.raises(ConfigError, match="it holds rows of another ledger"):
            async with open_accounting(CONFIG, tmp_path / "b"):
                pass


def test_a_spool_has_one_gateway_and_one_version(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    with opened(path, "first") as spool:
        with pytest.raises(LedgerUnusable, match="another gateway has it"):
            Spool(path, "second")
        spool.append(0, row(0))
    body = msgspec.msgpack.encode((99, "first", 0, row(0)))
    path.write_bytes(struct.pack("<II", len(body), zlib.crc32(body)) + body)
    with opened(path, "second") as spool, pytest.raises(LedgerUnusable, match="version 99"):
        spool.unwritten_rows()
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerUnusable, match=r"exists|directory"):
        Spool(tmp_path / "file" / "spool", "third")


async def test_rows_that_find_no_room_wait_in_memory(tmp_path: Path) -> None:
    with opened(tmp_path / "spool", "first") as spool:
        links = list(Path("/proc/self/fd").iterdir())  # noqa: ASYNC240
        [descriptor] = [
            int(link.name)
            for link in links
            if link.is_symlink() and os.readlink(link) == str(tmp_path / "spool")
        ]
        room, full = os.dup(descriptor), os.open("/dev/full", os.O_RDWR)
        spool.append(0, row(0))
        os.dup2(full, descriptor)
        spool.append(1, row(1))
        assert not spool.works
        os.dup2(room, descriptor)
        os.close(room)
        os.close(full)
        taken = 2

        def works() -> bool:
            nonlocal taken
            spool.append(taken, row(taken))
            taken += 1
            return spool.works

        await until(works)
        assert numbers(spool) == [("first", 0), ("first", taken - 1)]


async def nothing(_: object) -> None:
    """A transaction that only waits for the rows before it."""


async def test_it_is_bounded_while_the_database_never_catches_up(tmp_path: Path) -> None:
    """As many rows come as each batch takes away: there is never a batch of all that wait."""
    database = SqliteDatabase(tmp_path / "ledger.sqlite3")
    largest = seq = 0
    with opened(tmp_path / "spool", "only") as spool:

        async def append(first_seq: int, rows: Sequence[PendingRow]) -> None:
            nonlocal largest
            if first_seq >= 20 * BATCH_ROWS:
                return
            come(len(rows))
            largest = max(largest, size_bytes(tmp_path / "spool"))
            if first_seq % (5 * BATCH_ROWS) == 0:
                waiting = {("only", number) for number in range(first_seq, seq)}
                assert waiting <= set(numbers(spool))

        def come(rows: int) -> None:
            nonlocal seq
            for _ in range(rows):
                writer.add(row(seq))
                seq += 1

        writer = Writer(database, append, 100_000, spool)
        come(1)
        row_bytes = size_bytes(tmp_path / "spool")
        come(BATCH_ROWS + 499)
        assert await writer.flush()
        assert writer.status.written_rows == seq > 20 * BATCH_ROWS
        assert largest < 6 * BATCH_ROWS * (row_bytes + 8)
    await database.close()
