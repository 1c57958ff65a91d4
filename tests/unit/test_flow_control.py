"""The queue of one model: order, bounds, expiry."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.flow_control import ModelQueue, QueueLimits
from scheduler.types import Request, SloClass
from tests.unit.requests_made import request

LIMITS = QueueLimits(requests=8, size_bytes=1000)


def drain(queue: ModelQueue) -> list[str]:
    names = []
    while (head := queue.head()) is not None:
        names.append(head.request_id)
        queue.remove(head.request_id)
    return names


def test_first_come_first_served_within_a_class() -> None:
    queue = ModelQueue(LIMITS)
    for i in range(4):
        queue.push(request(f"r{i}", arrival_s=float(i)), 100.0, 1.0)
    assert drain(queue) == ["r0", "r1", "r2", "r3"]
    assert (len(queue), queue.size_bytes, queue.work_s) == (0, 0, 0.0)


def test_priority_is_worth_seconds_and_stays_within_its_class() -> None:
    queue = ModelQueue(LIMITS)
    queue.push(request("plain", arrival_s=0.0), 100.0, 1.0)
    queue.push(request("urgent", arrival_s=5.0, priority=10), 100.0, 1.0)
    queue.push(request("late", arrival_s=20.0, priority=10), 100.0, 1.0)
    assert drain(queue) == ["urgent", "plain", "late"]


def test_a_lower_class_waits_its_head_start_and_no_longer() -> None:
    queue = ModelQueue(LIMITS)
    queue.push(request("batch", SloClass.BATCH, arrival_s=0.0, priority=10), 100.0, 1.0)
    queue.push(request("person", arrival_s=59.0), 100.0, 1.0)
    queue.push(request("person2", arrival_s=61.0), 200.0, 1.0)
    assert drain(queue) == ["person", "batch", "person2"]


def test_the_bounds_hold_for_count_and_bytes() -> None:
    queue = ModelQueue(LIMITS)
    queue.push(request("big", size_bytes=900), 100.0, 1.0)
    too_big = request("too-big", size_bytes=101)
    assert not queue.has_room(too_big)
    with pytest.raises(OverflowError, match="too-big"):
        queue.push(too_big, 100.0, 1.0)
    for i in range(7):
        queue.push(request(f"r{i}", size_bytes=10), 100.0, 1.0)
    assert not queue.has_room(request("one-too-many", size_bytes=1))


def test_what_expires_leaves_in_order_of_its_expiry() -> None:
    queue = ModelQueue(LIMITS)
    queue.push(request("a"), 3.0, 1.0)
    queue.push(request("b"), 1.0, 1.0)
    queue.push(request("c"), 2.0, 1.0)
    queue.remove("b")
    assert queue.next_expiry_s() == 2.0
    assert [gone.request.request_id for gone in queue.expired(2.5)] == ["c"]
    assert queue.next_expiry_s() == 3.0


Step = tuple[str, int]


@given(st.lists(st.tuples(st.sampled_from(["push", "remove", "expire"]), st.integers(0, 30))))
def test_sums_and_membership_agree_whatever_happens(steps: list[Step]) -> None:
    queue = ModelQueue(LIMITS)
    inside: dict[str, tuple[Request, float]] = {}
    for number, (what, value) in enumerate(steps):
        match what:
            case "push":
                made = request(
                    f"r{number}",
                    list(SloClass)[value % 3],
                    arrival_s=float(number),
                    size_bytes=value * 10,
                )
                if queue.has_room(made):
                    queue.push(made, float(value), 0.5)
                    inside[made.request_id] = (made, float(value))
            case "remove":
                name = f"r{value}"
                assert (queue.remove(name) is not None) == (inside.pop(name, None) is not None)
            case "expire":
                gone = {item.request.request_id for item in queue.expired(float(value))}
                assert gone == {name for name, (_, at) in inside.items() if at <= value}
                for name in gone:
                    del inside[name]
        assert len(queue) == len(inside) <= LIMITS.requests
        assert queue.size_bytes == sum(r.size_bytes for r, _ in inside.values())
        assert queue.size_bytes <= LIMITS.size_bytes
        assert queue.work_s == pytest.approx(0.5 * len(inside))
        assert queue.next_expiry_s() == min((at for _, at in inside.values()), default=None)
        assert len(queue._expiries) <= 2 * len(inside) + 64
    assert sorted(drain(queue)) == sorted(inside)
