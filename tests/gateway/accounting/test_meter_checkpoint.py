"""The meter's file: what was written is read, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gateway.accounting.meter_checkpoint import (
    UnreadableCheckpoint,
    encode_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from scheduler.metering.meter import MeterCheckpoint
from scheduler.metering.totals import FIELDS, Totals


def checkpoint() -> MeterCheckpoint:
    """Each sum is another number, beyond 64 bits."""
    sums = {name: 2**70 + i for i, name in enumerate(FIELDS)}
    return MeterCheckpoint(observed_ns=7, totals={"group": Totals(**sums), "other": Totals()})


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "meter.json"
    assert read_checkpoint(path) is None
    write_checkpoint(path, b"an older one")
    write_checkpoint(path, encode_checkpoint(checkpoint()))
    found = read_checkpoint(path)
    assert found is not None
    assert found.observed_ns == 7
    for name, totals in checkpoint().totals.items():
        for field in FIELDS:
            assert getattr(found.totals[name], field) == getattr(totals, field), field
    assert [file.name for file in tmp_path.iterdir()] == ["meter.json"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not what the meter writes"),
        (
            msgspec.json.encode(
                {"version": 1, "observed_ns": 0, "groups": {"g": {FIELDS[0]: "x"}}}
            ),
            "not what the meter writes",
        ),
        (msgspec.json.encode({"version": 2, "observed_ns": 0, "groups": {}}), "version 2, this"),
    ],
)
def test_another_content_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "meter.json"
    path.write_bytes(content)
    with pytest.raises(UnreadableCheckpoint, match=says):
        read_checkpoint(path)


def test_a_crash_before_the_rename_leaves_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "meter.json"
    write_checkpoint(path, encode_checkpoint(checkpoint()))

    def crash(*_: object) -> None:
        raise OSError("crash")

    monkeypatch.setattr("os.replace", crash)
    with pytest.raises(OSError, match="crash"):
        write_checkpoint(path, b"half")
    assert read_checkpoint(path) is not None
