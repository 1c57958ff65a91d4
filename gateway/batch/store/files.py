"""Transactions on the files of offline jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.accounting.ledger.database import Row, Tx
from gateway.batch.files import CHUNK_BYTES, FileInfo, FileKind, chunk_numbers
from gateway.batch.port import BatchReason, BatchRefused, FilePage, PageQuery
from gateway.config.batch import BatchConfig

_COLUMNS = (
    "file_id, tenant, key_id, kind, purpose, filename, is_complete, size_bytes, job_id,"
    " created_unix_us, expires_unix_us"
)
PIECE_FILES = 8
"""Files that one transaction deletes with their chunks."""


def file_of(row: Sequence[Any]) -> FileInfo:
    """The file of a row of `_COLUMNS`."""
    return FileInfo(
        file_id=row[0],
        tenant=row[1],
        key_id=row[2],
        kind=FileKind(row[3]),
        purpose=row[4],
        filename=row[5],
        is_complete=bool(row[6]),
        size_bytes=row[7],
        job_id=row[8],
        created_unix_us=row[9],
        expires_unix_us=row[10],
    )


async def insert_file(tx: Tx, info: FileInfo) -> None:
    """Adds a file."""
    await tx.run(
        f"INSERT INTO batch_file ({_COLUMNS})"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        *(info.file_id, info.tenant, info.key_id, info.kind.value, info.purpose, info.filename),
        *(int(info.is_complete), info.size_bytes, info.job_id, info.created_unix_us),
        info.expires_unix_us,
    )


async def check_room(tx: Tx, tenant: str, bounds: BatchConfig) -> None:
    """Raises BatchRefused (LIMIT) if the tenant keeps as many files or bytes as it may."""
    [(files, uploaded)] = await tx.rows(
        "SELECT COUNT(*), COALESCE(CAST(SUM(size_bytes) AS BIGINT), 0) FROM batch_file"
        " WHERE tenant = $1 AND job_id = ''",
        tenant,
    )
    [(results,)] = await tx.rows(
        "SELECT COALESCE(CAST(SUM(result_bytes) AS BIGINT), 0) FROM batch_job WHERE tenant = $1",
        tenant,
    )
    if files > bounds.tenant_files:
        text = f"tenant {tenant} keeps {files - 1} files: batch.tenant_files allows"
        fix = f"{bounds.tenant_files}: delete some"
        raise BatchRefused(BatchReason.LIMIT, f"{text} {fix}")
    kept = uploaded + results
    if kept > bounds.tenant_bytes:
        text = f"tenant {tenant} would keep {kept} bytes of files and results: batch.tenant_bytes"
        fix = f"allows {bounds.tenant_bytes}: delete files, or results of jobs that have ended"
        raise BatchRefused(BatchReason.LIMIT, f"{text} {fix}")


async def find_file(tx: Tx, tenant: str, file_id: str, param: str = "file_id") -> FileInfo:
    """Returns a file of the tenant. `param`: field that names it, for errors. Raises BatchRefused
    (NOT_FOUND)."""
    found: Sequence[Row] = ()
    if "\0" not in file_id:  # which PostgreSQL rejects
        found = await tx.rows(
            f"SELECT {_COLUMNS} FROM batch_file WHERE file_id = $1 AND tenant = $2", file_id, tenant
        )
    if not found:
        text = f"there is no file {file_id[:80]!r}: see the list of files"
        raise BatchRefused(BatchReason.NOT_FOUND, text, param)
    return file_of(found[0])


async def list_files(tx: Tx, tenant: str, query: PageQuery) -> FilePage:
    """Lists the tenant's files, apart from those that are uploaded as messages or not whole yet.
    Raises BatchRefused (NOT_FOUND) for an unknown `after`."""
    sign, order = ("<", "DESC") if query.newest_first else (">", "ASC")
    edge = (0, "")
    if query.after:
        after = await find_file(tx, tenant, query.after)
        edge = (after.created_unix_us, after.file_id)
    found = await tx.rows(
        f"SELECT {_COLUMNS} FROM batch_file WHERE tenant = $1 AND is_complete = 1"
        " AND kind <> 'frames' AND ($2 = '' OR purpose = $2) AND ($4 = '' OR"
        f" created_unix_us {sign} $3 OR (created_unix_us = $3 AND file_id {sign} $4))"
        f" ORDER BY created_unix_us {order}, file_id {order} LIMIT $5",
        *(tenant, query.purpose, *edge, query.limit + 1),
    )
    files = tuple(map(file_of, found[: query.limit]))
    return FilePage(files=files, has_more=len(found) > query.limit)


async def write_chunk(
    tx: Tx, tenant: str, file_id: str, number: int, content: bytes, bounds: BatchConfig
) -> None:
    """Writes one chunk; a chunk that is written again is replaced. Raises BatchRefused."""
    info = await find_file(tx, tenant, file_id)
    if info.is_complete:
        raise BatchRefused(BatchReason.STATE, f"file {file_id} is complete: upload another one")
    size = number * CHUNK_BYTES + len(content)
    if size > bounds.file_bytes:
        text = f"the file has more than {bounds.file_bytes} bytes, batch.file_bytes: split it"
        raise BatchRefused(BatchReason.INVALID, text, "file")
    await tx.run(
        "INSERT INTO batch_chunk (file_id, number, content) VALUES ($1, $2, $3)"
        " ON CONFLICT (file_id, number) DO UPDATE SET content = excluded.content",
        *(file_id, number, content),
    )
    await tx.run(
        "UPDATE batch_file SET size_bytes = $2 WHERE file_id = $1 AND size_bytes < $2",
        *(file_id, size),
    )
    await check_room(tx, tenant, bounds)


async def complete_file(tx: Tx, info: FileInfo) -> None:
    """Marks an upload as whole, with the fields that are known by then."""
    await tx.run(
        "UPDATE batch_file SET is_complete = 1, purpose = $2, filename = $3,"
        " expires_unix_us = $4 WHERE file_id = $1",
        *(info.file_id, info.purpose, info.filename, info.expires_unix_us),
    )


async def read_bytes(tx: Tx, file_id: str, start: int, size: int) -> bytes:
    """Reads `size` bytes of an uploaded file from byte `start` on; fewer at its end. The database
    sends no more than these."""
    pieces = []
    for number in chunk_numbers(start, size):
        first = max(0, start - number * CHUNK_BYTES)
        most = min(CHUNK_BYTES, start + size - number * CHUNK_BYTES) - first
        found = await tx.rows(
            "SELECT SUBSTR(content, CAST($3 AS INTEGER), CAST($4 AS INTEGER)) FROM batch_chunk"
            " WHERE file_id = $1 AND number = $2",
            *(file_id, number, first + 1, most),
        )
        pieces += [row[0] for row in found]
    return b"".join(pieces)


async def read_chunk(tx: Tx, file_id: str, number: int) -> bytes | None:
    """Reads one chunk; None: the file has no such chunk."""
    found = await tx.rows(
        "SELECT content FROM batch_chunk WHERE file_id = $1 AND number = $2", file_id, number
    )
    return bytes(found[0][0]) if found else None


async def remove_file(tx: Tx, file_id: str) -> None:
    """Deletes a file with its chunks."""
    await tx.run("DELETE FROM batch_chunk WHERE file_id = $1", file_id)
    await tx.run("DELETE FROM batch_file WHERE file_id = $1", file_id)


async def remove_expired_files(tx: Tx, now_us: int, abandoned_us: int) -> int:
    """Deletes some files whose time is over, or whose upload began before `abandoned_us` and never
    ended. Those of open jobs stay. Returns how many; `PIECE_FILES` means that there may be more."""
    found = await tx.rows(
        "SELECT file_id FROM batch_file WHERE job_id = '' AND (expires_unix_us < $1 OR"
        " (is_complete = 0 AND created_unix_us < $2)) AND file_id NOT IN"
        " (SELECT file_id FROM batch_job WHERE ended_unix_us IS NULL) LIMIT $3",
        *(now_us, abandoned_us, PIECE_FILES),
    )
    for (file_id,) in found:
        await remove_file(tx, file_id)
    return len(found)
