"""Writes a report to a file: CSV, JSON or Parquet, by its ending. Unknown values stay blank."""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from moegate.cli.views.usage_export import NoPyarrow

ENDINGS = (".csv", ".json", ".parquet")


def add_file_argument(parser: argparse.ArgumentParser) -> None:
    """Declares --out."""
    parser.add_argument(
        "--out",
        type=_path,
        metavar="FILE",
        help=f"write it to a file, too; its ending says how: {', '.join(ENDINGS)}",
    )


def _path(text: str) -> Path:
    path = Path(text)
    if path.suffix not in ENDINGS:
        raise argparse.ArgumentTypeError(f"{text}: end its name in {', '.join(ENDINGS)}")
    return path


def write_rows(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Writes rows of texts, numbers, times and None. Raises NoPyarrow or OSError."""
    match path.suffix:
        case ".json":
            records = [dict(zip(header, map(_plain, row), strict=True)) for row in rows]
            path.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
        case ".parquet":
            _write_parquet(path, header, rows)
        case _:
            with path.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerow(header)
                csv.writer(file).writerows([_text(value) for value in row] for row in rows)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Decimal | datetime) else value


def _text(value: Any) -> Any:
    if value is None:
        return ""
    return value.isoformat() if isinstance(value, datetime) else value


def _write_parquet(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise NoPyarrow(".parquet needs pyarrow: pip install 'moegate[parquet]'") from None
    columns = list(zip(*rows, strict=True)) if rows else [() for _ in header]
    # Decimals of one column get one scale: dollars to the nano-dollar.
    types = [
        pyarrow.decimal128(38, 9) if any(isinstance(v, Decimal) for v in column) else None
        for column in columns
    ]
    arrays = [
        pyarrow.array(list(column), kind) for column, kind in zip(columns, types, strict=True)
    ]
    parquet.write_table(pyarrow.table(dict(zip(header, arrays, strict=True))), path)
