"""The meter's sums on disk: what a restart goes on from.

Written whole to a new file that then takes the old one's name, so that a crash leaves one or the
other. Integers beyond 64 bits are texts in JSON.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from scheduler.metering.meter import Mark
from scheduler.metering.totals import FIELDS, Totals

VERSION = 1


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    observed_ns: int
    groups: dict[str, dict[str, str]]


class UnreadableMark(Exception):
    """The file is there, but it is no mark."""


def read_mark(path: Path) -> Mark | None:
    """The mark of the process before; None: there is none. Raises UnreadableMark."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnreadableMark(f"{path}: {error.strerror}") from None
    try:
        file = msgspec.json.decode(data, type=_File)
        if file.version != VERSION:
            raise UnreadableMark(f"{path}: version {file.version}, this is {VERSION}")
        totals = {
            name: Totals(**{field: int(sums.get(field, "0")) for field in FIELDS})
            for name, sums in file.groups.items()
        }
    except (msgspec.DecodeError, ValueError) as error:
        raise UnreadableMark(f"{path}: not what the meter writes: {error}") from None
    return Mark(observed_ns=file.observed_ns, totals=totals)


def encode_mark(mark: Mark) -> bytes:
    """The file's content."""
    groups = {
        name: {field: str(getattr(totals, field)) for field in FIELDS}
        for name, totals in mark.totals.items()
    }
    return msgspec.json.encode(_File(version=VERSION, observed_ns=mark.observed_ns, groups=groups))


def write_mark(path: Path, data: bytes) -> None:
    """Replaces the file; blocks on the disk. Raises OSError."""
    new = path.with_name(f"{path.name}.new")
    with new.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
