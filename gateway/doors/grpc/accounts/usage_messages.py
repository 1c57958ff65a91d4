"""Converts ledger rows and sums into messages."""

from __future__ import annotations

from dataclasses import fields

from google.protobuf.timestamp_pb2 import Timestamp

from gateway.accounting.ledger.database import Row
from gateway.accounting.ledger.schema import ATTEMPT_COLUMNS
from gateway.accounting.rollups.spend import Spend
from moegate.v1 import usage_pb2

_RENAMED = {"parts": "parts_json", "labels": "labels_json"}
_TIMES = {"started_unix_us": "started_at", "ended_unix_us": "ended_at"}


_SUMS = tuple(field.name for field in fields(Spend))


def spend_row(spend: Spend) -> usage_pb2.SpendRow:
    """Converts the sums of one group. The message fields have the same names."""
    return usage_pb2.SpendRow(
        metered_nano_usd=spend.metered_nano_usd, **{name: getattr(spend, name) for name in _SUMS}
    )


def attempt_row(row: Row) -> usage_pb2.AttemptRow:
    """Converts one row. The message fields have the column names, except for times. NULL columns
    stay unset."""
    values = dict(zip(ATTEMPT_COLUMNS, row, strict=True))
    message = usage_pb2.AttemptRow(
        **{
            _RENAMED.get(name, name): value
            for name, value in values.items()
            if name not in _TIMES and name != "last_attempt"
        },
        last_attempt=bool(values["last_attempt"]),
    )
    for column, field in _TIMES.items():
        getattr(message, field).FromMicroseconds(values[column])
    return message


def timestamp(unix_s: float) -> Timestamp:
    """Converts Unix seconds."""
    message = Timestamp()
    message.FromNanoseconds(round(unix_s * 1e9))
    return message
