"""Writes rows of the ledger to a file, page by page, so that memory stays bounded."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from moegate.v1 import usage_pb2

FIELDS = [field.name for field in usage_pb2.AttemptRow.DESCRIPTOR.fields]
_TIMES = ("started_at", "ended_at")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Pages = AsyncIterator[Sequence[usage_pb2.AttemptRow]]


class NoPyarrow(Exception):
    """pyarrow is not installed. The text has the command that installs it."""


def values(row: usage_pb2.AttemptRow) -> list[Any]:
    """Values of `FIELDS`; None: unknown. Times are in UTC, to the microsecond."""
    found: list[Any] = []
    for field in usage_pb2.AttemptRow.DESCRIPTOR.fields:
        if field.has_presence and not row.HasField(field.name):
            found.append(None)
        elif field.name in _TIMES:
            at = getattr(row, field.name).ToMicroseconds()
            found.append(_EPOCH + timedelta(microseconds=at))
        else:
            found.append(getattr(row, field.name))
    return found


async def write_csv(path: Path, pages: Pages) -> int:
    """Writes CSV with a header line. Returns the number of rows. Raises OSError."""
    count = 0
    file = await asyncio.to_thread(path.open, "w", encoding="utf-8", newline="")
    with file:
        csv.writer(file).writerow(FIELDS)
        async for page in pages:
            text = io.StringIO()
            csv.writer(text).writerows(_texts(row) for row in page)
            await asyncio.to_thread(file.write, text.getvalue())
            count += len(page)
    return count


async def write_parquet(path: Path, pages: Pages) -> int:
    """Writes Parquet. Returns the number of rows. Raises NoPyarrow or OSError."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise NoPyarrow(".parquet needs pyarrow: pip install 'moegate[parquet]'") from None
    names = {"int64": pyarrow.int64(), "string": pyarrow.string(), "bool": pyarrow.bool_()}
    schema = pyarrow.schema(
        [
            pyarrow.field(
                field.name,
                pyarrow.timestamp("us", tz="UTC")
                if field.name in _TIMES
                else names[_KINDS[field.type]],
            )
            for field in usage_pb2.AttemptRow.DESCRIPTOR.fields
        ]
    )
    count = 0
    with parquet.ParquetWriter(path, schema) as writer:
        async for page in pages:
            columns = list(zip(*map(values, page), strict=True))
            arrays = [
                pyarrow.array(column, field.type)
                for column, field in zip(columns, schema, strict=True)
            ]
            batch = pyarrow.record_batch(arrays, schema=schema)
            await asyncio.to_thread(writer.write_batch, batch)
            count += len(page)
    return count


_FIELD = usage_pb2.AttemptRow.DESCRIPTOR.fields[0]
_KINDS = {
    _FIELD.TYPE_INT64: "int64",
    _FIELD.TYPE_STRING: "string",
    _FIELD.TYPE_BOOL: "bool",
}


def _texts(row: usage_pb2.AttemptRow) -> list[Any]:
    """Values for CSV: times as ISO 8601, an unknown value as an empty cell."""
    return [
        value.isoformat() if isinstance(value, datetime) else "" if value is None else value
        for value in values(row)
    ]
