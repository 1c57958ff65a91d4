"""Exports of the ledger: every field of every row, and what is unknown is not a zero."""

from __future__ import annotations

import csv
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet

from moegate.cli.views.usage_export import FIELDS, values, write_csv, write_parquet
from moegate.v1 import usage_pb2

AT = datetime(2026, 11, 25, 2, 0, 0, 250_000, tzinfo=UTC)


def row(name: str) -> usage_pb2.AttemptRow:
    found = usage_pb2.AttemptRow(request_id=name, tenant='a "quoted", tenant')
    found.started_at.FromDatetime(AT)
    return found


async def pages() -> AsyncIterator[Sequence[usage_pb2.AttemptRow]]:
    yield [row("one"), row("two")]
    yield [row("three")]


def test_the_values_are_those_of_the_fields() -> None:
    known = row("one")
    found = dict(zip(FIELDS, values(known), strict=True))
    assert (found["request_id"], found["started_at"]) == ("one", AT)
    optional = [
        field.name
        for field in usage_pb2.AttemptRow.DESCRIPTOR.fields
        if field.has_presence and not known.HasField(field.name)
    ]
    assert optional
    assert all(found[name] is None for name in optional)


async def test_csv_has_a_header_and_a_line_for_each_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    assert await write_csv(path, pages()) == 3
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == FIELDS
    assert [r["request_id"] for r in rows] == ["one", "two", "three"]
    assert rows[0]["tenant"] == 'a "quoted", tenant'
    assert rows[0]["started_at"] == "2026-11-25T02:00:00.250000+00:00"
    assert rows[0]["ended_at"] == ""


async def test_parquet_has_typed_columns(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    assert await write_parquet(path, pages()) == 3
    table = pyarrow.parquet.read_table(path)  # type: ignore[no-untyped-call, unused-ignore]
    assert table.column_names == FIELDS
    assert table.column("request_id").to_pylist() == ["one", "two", "three"]
    assert table.column("started_at").to_pylist() == [AT] * 3
    assert table.column("ended_at").null_count == 3
