"""An address that fails too often waits; others do not."""

from __future__ import annotations

import pytest

from gateway.doors.console.problems import Problem
from gateway.doors.console.signing_in.failures import (
    BURST,
    MOST_ADDRESSES,
    RETURN_S,
    FailedSignIns,
)


class Clock:
    """A clock that tests move."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def may(failed: FailedSignIns, address: str | None) -> bool:
    try:
        failed.check(address)
    except Problem:
        return False
    return True


def fail(failed: FailedSignIns, address: str | None, times: int) -> None:
    for _ in range(times):
        failed.add(address)


def test_some_failures_are_free_and_time_forgives_them() -> None:
    clock = Clock()
    failed = FailedSignIns(clock)
    fail(failed, "192.0.2.1", BURST - 1)
    assert may(failed, "192.0.2.1")
    failed.add("192.0.2.1")
    with pytest.raises(Problem) as refused:
        failed.check("192.0.2.1")
    assert refused.value.status == 429
    assert may(failed, "192.0.2.2")
    clock.now_s += RETURN_S
    assert may(failed, "192.0.2.1")
    failed.add("192.0.2.1")
    assert not may(failed, "192.0.2.1")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2001:db8::1", "2001:db8::ffff:1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        (None, ""),
    ],
)
def test_addresses_of_one_network_are_one(one: str | None, other: str) -> None:
    failed = FailedSignIns(Clock())
    fail(failed, one, BURST)
    assert not may(failed, other)
    assert may(failed, "2001:db8:0:1::1")


def test_so_many_addresses_are_remembered() -> None:
    failed = FailedSignIns(Clock())
    fail(failed, "192.0.2.1", BURST)
    for number in range(MOST_ADDRESSES):
        assert not may(failed, "192.0.2.1")
        failed.add(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert may(failed, "192.0.2.1")
