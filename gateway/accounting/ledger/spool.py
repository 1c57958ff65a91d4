"""The spool: rows that are not in the database yet, in two files that outlive the process.

`append` returns when the row is in the operating system's page cache (one write, some
microseconds). `kill -9` does not lose it, and the next start reads it (`unwritten_rows`), so that
the database may be written seldom and in large batches. One file takes rows while the rows of the
other are written to the database; then they swap. Files are neither truncated nor flushed to the
disk: a record counts only if it is whole and its number is above that of the record before it.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import struct
import time
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from gateway.accounting.ledger.append import append
from gateway.accounting.ledger.corrections import AccountsOf, correct_lost_runs
from gateway.accounting.ledger.database import Database, LedgerUnusable, Tx
from gateway.accounting.ledger.rows import PendingRow

log = logging.getLogger(__name__)

VERSION = 2
_WITHOUT_TAGS = 1
"""Version of rows without the two last columns, which have no tags."""
_HEAD = struct.Struct("<II")
"""Head of a record: the length of its body, and the body's CRC-32."""
PIECE_ROWS = 2000
TRY_AGAIN_S = 1.0
"""Pause after a failed write."""
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[int, str, int, msgspec.Raw])


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive rows of one process."""

    epoch: str
    first_seq: int
    rows: list[PendingRow]


class _File:
    __slots__ = ("fd", "last_seq", "path", "size")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.size = 0
        self.last_seq = -1


class Spool:
    """The two files of one process."""

    def __init__(self, path: Path, epoch: str) -> None:
        """`epoch`: names the rows of this process. Raises LedgerUnusable."""
        self.path = path
        self._epoch = epoch
        self._not_before_s = 0.0
        self._files: list[_File] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for name in (path, path.with_name(f"{path.name}2")):
                self._files.append(_File(name))
            fcntl.flock(self._files[0].fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise LedgerUnusable(
                f"ledger.spool {path}: another gateway has it: give each a file of its own"
            ) from None
        except OSError as error:
            self.close()
            raise LedgerUnusable(f"ledger.spool {path}: {error}") from error
        self._current, self._previous = self._files

    def append(self, seq: int, entry: PendingRow) -> None:
        """Writes the row of this number. Never raises: without room on disk it stays in memory."""
        if self._not_before_s and time.monotonic() < self._not_before_s:
            return
        file = self._current
        body = _encoder.encode((VERSION, self._epoch, seq, entry))
        record = _HEAD.pack(len(body), zlib.crc32(body)) + body
        try:
            if os.pwrite(file.fd, record, file.size) < len(record):
                raise OSError("only a part was written")
        except OSError as error:
            if not self._not_before_s:
                log.error("%s: %s: a kill now loses rows that wait in memory", file.path, error)
            self._not_before_s = time.monotonic() + TRY_AGAIN_S
            return
        self._not_before_s = 0.0
        file.size += len(record)
        file.last_seq = seq

    @property
    def works(self) -> bool:
        """Whether the last write succeeded."""
        return not self._not_before_s

    def swap_files(self, next_seq: int) -> None:
        """Lets the other file start over, if the database has all its rows: those below this
        number."""
        if self._previous.last_seq < next_seq and self._current.size:
            self._current, self._previous = self._previous, self._current
            self._current.size = 0

    def unwritten_rows(self) -> list[Run]:
        """Rows that the database may lack, left by an earlier process. Raises LedgerUnusable."""
        found: dict[tuple[str, int], PendingRow] = {}
        try:
            for file in self._files:
                found |= _records(file.path.read_bytes())
        except (OSError, msgspec.MsgspecError) as error:
            raise LedgerUnusable(f"ledger.spool {self._files[0].path}: {error}") from error
        runs: list[Run] = []
        for epoch, seq in sorted(found):
            last = runs[-1] if runs else None
            if last is None or (last.epoch, last.first_seq + len(last.rows)) != (epoch, seq):
                last = Run(epoch, seq, [])
                runs.append(last)
            last.rows.append(found[epoch, seq])
        return runs

    def clear(self) -> None:
        """Empties both files, whose rows are in the database. Raises OSError."""
        for file in self._files:
            os.ftruncate(file.fd, 0)
            file.size, file.last_seq = 0, -1

    def close(self) -> None:
        """Closes the files and their lock."""
        for file in self._files:
            os.close(file.fd)
        self._files.clear()


def _records(data: bytes) -> dict[tuple[str, int], PendingRow]:
    """Valid records of a file, keyed by epoch and number; the bytes after them are older."""
    found: dict[tuple[str, int], PendingRow] = {}
    last: tuple[str, int] | None = None
    at = 0
    while at + _HEAD.size <= len(data):
        length, checksum = _HEAD.unpack_from(data, at)
        body = data[at + _HEAD.size : at + _HEAD.size + length]
        if not length or len(body) < length or zlib.crc32(body) != checksum:
            break
        version, epoch, seq, entry = _decoder.decode(body)
        if version not in (VERSION, _WITHOUT_TAGS):
            raise LedgerUnusable(
                f"a spool of version {version}, this moegate reads {VERSION}: let the moegate that "
                "wrote it start and end once"
            )
        if last is not None and (epoch != last[0] or seq <= last[1]):
            break
        last = epoch, seq
        row = msgspec.msgpack.decode(entry, type=PendingRow)
        if version == _WITHOUT_TAGS:
            row = msgspec.structs.replace(row, values=(*row.values, "", ""))
        found[last] = row
        at += _HEAD.size + length
    return found


async def recover_spool(spool: Spool, database: Database, accounts_of: AccountsOf) -> int:
    """Writes the rows that a killed process left in its spool, at the start, and corrects those of
    lost runs. Returns their number, including those that the database already had. Raises
    LedgerUnusable, LedgerUnavailable.
    """
    runs = await asyncio.to_thread(spool.unwritten_rows)
    for run in runs:
        if not await database.read(partial(_knows, run.epoch)):
            raise LedgerUnusable(
                f"ledger.spool {spool.path}: it holds rows of another ledger: start and "
                "end moegate once with that one, or move the file away"
            )
        for begin in range(0, len(run.rows), PIECE_ROWS):
            piece = run.rows[begin : begin + PIECE_ROWS]
            first_seq = run.first_seq + begin
            await database.write(partial(_append, run.epoch, first_seq, piece, accounts_of))
    spool.clear()
    return sum(len(run.rows) for run in runs)


async def _append(
    epoch: str, first_seq: int, rows: list[PendingRow], accounts_of: AccountsOf, tx: Tx
) -> None:
    known = len(rows) - await append(tx, epoch, first_seq, rows)
    await correct_lost_runs(tx, epoch, first_seq + known, rows[known:], accounts_of)


async def _knows(epoch: str, tx: Tx) -> bool:
    """Whether a process of this epoch used this database: it writes a heartbeat before its first
    row."""
    for table in ("gateway", "lease", "attempt"):
        if await tx.rows(f"SELECT 1 FROM {table} WHERE epoch = $1 LIMIT 1", epoch):
            return True
    return False
