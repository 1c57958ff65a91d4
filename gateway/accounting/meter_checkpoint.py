"""The meter's sums on disk, from which a restarted gateway continues.

The file is written whole under a new name and then renamed, so that a crash leaves either the old
or the new one. Sums are JSON strings, because they may exceed 64 bits.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from scheduler.metering.meter import MeterCheckpoint
from scheduler.metering.totals import FIELDS, Totals

VERSION = 1


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    observed_ns: int
    groups: dict[str, dict[str, str]]


class UnreadableCheckpoint(Exception):
    """The file exists, but it is no checkpoint."""


def read_checkpoint(path: Path) -> MeterCheckpoint | None:
    """The checkpoint of the previous process; None where there is no file. Raises
    UnreadableCheckpoint."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnreadableCheckpoint(f"{path}: {error.strerror}") from None
    try:
        return decode_checkpoint(data)
    except (msgspec.DecodeError, ValueError) as error:
        raise UnreadableCheckpoint(f"{path}: not what the meter writes: {error}") from None


def decode_checkpoint(data: bytes) -> MeterCheckpoint:
    """The checkpoint of `encode_checkpoint`. Raises DecodeError or ValueError."""
    file = msgspec.json.decode(data, type=_File)
    if file.version != VERSION:
        raise ValueError(f"version {file.version}, this is {VERSION}")
    totals = {
        name: Totals(**{field: int(sums.get(field, "0")) for field in FIELDS})
        for name, sums in file.groups.items()
    }
    return MeterCheckpoint(observed_ns=file.observed_ns, totals=totals)


def encode_checkpoint(checkpoint: MeterCheckpoint) -> bytes:
    """The file's content."""
    groups = {
        name: {field: str(getattr(totals, field)) for field in FIELDS}
        for name, totals in checkpoint.totals.items()
    }
    return msgspec.json.encode(
        _File(version=VERSION, observed_ns=checkpoint.observed_ns, groups=groups)
    )


def write_checkpoint(path: Path, data: bytes) -> None:
    """Replaces the file; blocks on the disk. Raises OSError."""
    new = path.with_name(f"{path.name}.new")
    with new.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
