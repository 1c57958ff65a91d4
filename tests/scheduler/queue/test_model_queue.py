"""The queue of one model: order, fairness, bounds, what becomes due."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.contract import Request, SloClass
from scheduler.policy import Policy
from scheduler.queue.model_queue import ModelQueue, QueueLimits
from scheduler.queue.queued import Due, Queued
from tests.scheduler.requests_made import request

LIMITS = QueueLimits(requests=8, size_bytes=1000)


def queue(limits: QueueLimits = LIMITS, **policy: float) -> ModelQueue:
    return ModelQueue(limits, replace(Policy(looks=8), **policy))  # type: ignore[arg-type]


def waiting(
    made: Request,
    *,
    prefill_s: float = 0.1,
    work_s: float = 1.0,
    late_s: float = 1000.0,
    expires_s: float = 2000.0,
) -> Queued:
    return Queued(
        request=made,
        spill_s=None,
        last_call_s=late_s - 1.0,
        late_s=late_s,
        expires_s=expires_s,
        prefill_s=prefill_s,
        service_s=prefill_s,
        work_s=work_s,
    )


def drain(line: ModelQueue, charge: float = 1.0) -> list[str]:
    """Serves one after the other, as if each look found a place."""
    names = []
    while (candidate := next(line.candidates(), None)) is not None:
        _, first = candidate
        names.append(first.request.request_id)
        line.remove(first.request.request_id)
        line.credit_lower_classes(first)
        line.counters.charge(first.request.tenant, first.request.weight, charge)
    return names


def test_the_shortest_prefill_goes_first_and_waiting_counts() -> None:
    line = queue(ageing=0.1)
    line.push(waiting(request("long", arrival_s=0.0), prefill_s=1.0))
    line.push(waiting(request("short", arrival_s=5.0), prefill_s=0.1))
    line.push(waiting(request("late", arrival_s=12.0), prefill_s=0.1))
    assert drain(line) == ["short", "long", "late"]
    assert (len(line), line.size_bytes, line.work_s()) == (0, 0, 0.0)


def test_priority_is_worth_seconds_and_stays_within_its_class() -> None:
    line = queue()
    line.push(waiting(request("plain", arrival_s=0.0)))
    line.push(waiting(request("urgent", arrival_s=5.0, priority=10)))
    line.push(waiting(request("late", arrival_s=20.0, priority=10)))
    line.push(waiting(request("low", SloClass.STANDARD, priority=10)))
    assert drain(line) == ["urgent", "plain", "late", "low"]


def test_a_lower_class_gets_its_reserved_share_and_no_more() -> None:
    line = queue(QueueLimits(requests=200, size_bytes=100_000), lower_class_share=0.05)
    for i in range(100):
        line.push(waiting(request(f"i{i}", arrival_s=float(i))))
    for i in range(10):
        line.push(waiting(request(f"b{i}", SloClass.BATCH, arrival_s=float(i))))
    order = drain(line)
    served = [order.index(f"b{i}") for i in range(10)]
    assert served[:5] == [20, 41, 62, 83, 104], "one in twenty, then what is left"
    assert order[-5:] == [f"b{i}" for i in range(5, 10)]


def test_tenants_share_by_weight_and_get_nothing_for_their_absence() -> None:
    line = queue(QueueLimits(requests=200, size_bytes=100_000))
    for i in range(30):
        line.push(waiting(request(f"a{i}", tenant="a", arrival_s=float(i))))
        line.push(waiting(request(f"b{i}", tenant="b", weight=2.0, arrival_s=float(i))))
    order = drain(line)[:30]
    assert sum(name.startswith("b") for name in order) == pytest.approx(20, abs=1)
    # c was away all the time: from now on it shares, it does not catch up.
    for i in range(20):
        line.push(waiting(request(f"d{i}", tenant="a", arrival_s=float(i))))
        line.push(waiting(request(f"c{i}", tenant="c", arrival_s=float(i))))
    assert sum(name.startswith("c") for name in drain(line)[:20]) <= 11


def tried(line: ModelQueue) -> list[str]:
    """The candidates that are tried while the first of them competes with the others."""
    candidates = list(line.candidates())
    return [q.request.request_id for rank, q in candidates if rank <= candidates[0][0]]


def test_who_cannot_be_in_time_any_more_waits_behind_who_can() -> None:
    line = queue()
    line.push(waiting(request("first"), late_s=3.0))
    line.push(waiting(request("second", arrival_s=1.0)))
    assert [(due, q.request.request_id) for due, q in line.pop_due(2.5)] == [
        (Due.PRESSED, "first"),
        (Due.LAST_CALL, "first"),
    ]
    assert [(due, q.request.request_id) for due, q in line.pop_due(3.0)] == [(Due.LATE, "first")]
    assert tried(line) == ["second"]
    line.remove("second")
    assert tried(line) == ["first"]
    assert list(line.candidates(hold_late=True)) == []


def test_who_is_pressed_goes_before_all_that_can_wait_longer() -> None:
    line = queue(pressed_share=0.5)
    line.push(waiting(request("urgent", arrival_s=4.0)))
    line.push(waiting(request("standard", SloClass.STANDARD), late_s=10.0))
    line.push(waiting(request("batch", SloClass.BATCH), late_s=10.0))
    assert tried(line) == ["urgent"]
    line.push(waiting(request("early", arrival_s=4.0), late_s=7.0))
    assert [q.request.request_id for _, q in line.pop_due(5.5)] == ["standard", "early"]
    assert tried(line) == ["early", "standard", "urgent"], "whoever of them finds no place"
    assert drain(line) == ["early", "standard", "urgent", "batch"]


def test_a_pressed_request_holds_only_lower_classes_back() -> None:
    line = queue()
    line.push(waiting(request("a", SloClass.STANDARD), late_s=10.0))
    line.push(waiting(request("b", SloClass.STANDARD, arrival_s=4.0)))
    line.push(waiting(request("c", SloClass.BATCH)))
    assert [due for due, _ in line.pop_due(5.0)] == [Due.PRESSED]
    assert tried(line) == ["a", "b"]


def test_the_pressed_share_by_tenant_and_keep_the_credit_of_their_class() -> None:
    line = queue()
    for name, tenant in (("a0", "a"), ("a1", "a"), ("b0", "b")):
        made = request(name, SloClass.STANDARD, tenant=tenant)
        line.push(waiting(made, late_s=10.0))
    line.push(waiting(request("urgent"), work_s=100.0))
    urgent = line.remove("urgent")
    assert urgent is not None
    line.credit_lower_classes(urgent)
    assert len(list(line.pop_due(5.0))) == 3
    line.push(waiting(request("first", tenant="c"), late_s=4.0))
    assert [due for due, _ in line.pop_due(2.0)] == [Due.PRESSED]
    line.counters.charge("a", 1.0, 10.0)
    assert drain(line) == ["b0", "a0", "a1", "first"], "the credit covers four requests"


def test_all_are_in_time_where_one_line_would_keep_all() -> None:
    """Two requests of a lower class come with a burst of a higher one that then fills every place:
    in strict order they would wait for ever."""
    line = queue(QueueLimits(requests=200, size_bytes=100_000))
    for i in range(2):
        line.push(waiting(request(f"s{i}", SloClass.STANDARD), late_s=15.0))
    for i in range(4):
        line.push(waiting(request(f"i{i}"), late_s=15.0))
    lost: list[str] = []
    for second in range(60):
        now = float(second)
        line.push(waiting(request(f"n{second}", arrival_s=now), late_s=now + 15.0))
        lost += [q.request.request_id for due, q in line.pop_due(now) if due is Due.LATE]
        _, first = next(line.candidates())
        line.remove(first.request.request_id)
        line.credit_lower_classes(first)
    assert lost == []
    assert len(line) == 6


def test_no_lower_class_is_pressed_while_a_higher_one_loses_more_than_a_few() -> None:
    line = queue(QueueLimits(requests=200, size_bytes=100_000))
    for i in range(40):
        line.push(waiting(request(f"i{i}"), late_s=3.0))
    assert sum(due is Due.LATE for due, _ in line.pop_due(3.0)) == 40
    line.push(waiting(request("urgent", arrival_s=4.0)))
    line.push(waiting(request("standard", SloClass.STANDARD), late_s=10.0))
    assert [due for due, _ in line.pop_due(5.5)] == [Due.PRESSED]
    assert tried(line) == ["urgent"]
    assert [q.request.request_id for _, q in line.candidates(hold_late=True)] == [
        "urgent",
        "standard",
    ]
    for i in range(800):
        line.arrived(request(f"kept{i}"))
    assert tried(line) == ["standard", "urgent"]


def test_the_class_decides_who_is_late_where_not_all_can_be_in_time() -> None:
    line = queue(QueueLimits(requests=200, size_bytes=100_000), lower_class_share=0.0)
    lost: list[str] = []
    for second in range(60):
        now = float(second)
        line.push(waiting(request(f"i{second}", arrival_s=now), late_s=now + 5.0))
        made = request(f"s{second}", SloClass.STANDARD, arrival_s=now)
        line.push(waiting(made, late_s=now + 5.0))
        lost += [q.request.request_id for due, q in line.pop_due(now) if due is Due.LATE]
        _, first = next(line.candidates())
        line.remove(first.request.request_id)
    assert len(lost) > 20
    assert all(name.startswith("s") for name in lost)


def test_an_arrival_passes_its_own_tenant_but_not_who_had_less() -> None:
    line = queue()
    assert line.overtakes(request("x", tenant="a"), 0.0)
    line.push(waiting(request("a0", tenant="a")))
    assert line.overtakes(request("x", tenant="a"), 0.0)
    assert not line.overtakes(request("x", SloClass.STANDARD, tenant="b"), 0.0), "a class above"
    line.counters.charge("c", 1.0, 10.0)
    assert not line.overtakes(request("x", tenant="c"), 9.0)
    assert line.overtakes(request("x", tenant="c"), 10.0), "within the slack"


def test_the_bounds_hold_for_count_and_bytes() -> None:
    line = queue()
    line.push(waiting(request("big", size_bytes=900)))
    too_big = request("too-big", size_bytes=101)
    assert not line.has_room(too_big)
    with pytest.raises(OverflowError, match="too-big"):
        line.push(waiting(too_big))
    for i in range(7):
        line.push(waiting(request(f"r{i}", size_bytes=10)))
    assert not line.has_room(request("one-too-many", size_bytes=1))


def test_a_full_queue_gives_way_by_class_and_then_by_the_longest_line() -> None:
    line = queue()
    for i in range(6):
        line.push(waiting(request(f"a{i}", SloClass.STANDARD, tenant="a", arrival_s=float(i))))
    line.push(waiting(request("b0", SloClass.STANDARD, tenant="b")))
    line.push(waiting(request("batch", SloClass.BATCH, tenant="b")))

    def gives_way(made: Request) -> str | None:
        victim = line.displaceable(made)
        return None if victim is None else victim.request.request_id

    assert gives_way(request("x")) == "batch"
    assert gives_way(request("x", SloClass.BATCH, tenant="c")) is None
    line.remove("batch")
    assert gives_way(request("x")) == "a5"
    assert gives_way(request("x", SloClass.STANDARD, tenant="c")) == "a5"
    assert gives_way(request("x", SloClass.STANDARD, tenant="a")) is None
    assert gives_way(request("x", SloClass.BATCH, tenant="c")) is None
    assert gives_way(request("huge", size_bytes=960)) is None, "one alone would not be enough"


Step = tuple[str, int]


@given(
    st.lists(st.tuples(st.sampled_from(["push", "remove", "due"]), st.integers(0, 30))),
    st.booleans(),
)
def test_sums_and_membership_agree_whatever_happens(steps: list[Step], shedding: bool) -> None:
    line = queue(shedding=shedding)
    inside: dict[str, Queued] = {}
    for number, (what, value) in enumerate(steps):
        match what:
            case "push":
                made = request(
                    f"r{number}",
                    list(SloClass)[value % 3],
                    tenant=f"t{value % 2}",
                    arrival_s=float(number),
                    size_bytes=value * 10,
                )
                if line.has_room(made):
                    times = {"late_s": float(value), "expires_s": value + 5.0}
                    inside[made.request_id] = waiting(made, work_s=0.5, **times)
                    line.push(inside[made.request_id])
            case "remove":
                name = f"r{value}"
                assert (line.remove(name) is not None) == (inside.pop(name, None) is not None)
            case "due":
                due = list(line.pop_due(float(value)))
                gone = {q.request.request_id for what, q in due if what is Due.EXPIRED}
                assert gone == {name for name, q in inside.items() if q.expires_s <= value}
                for name in gone:
                    del inside[name]
        assert len(line) == len(inside) <= LIMITS.requests
        assert line.size_bytes == sum(q.request.size_bytes for q in inside.values())
        live = [q for q in inside.values() if not (q.late and shedding)]
        assert line.work_s() == pytest.approx(0.5 * len(live))
        assert sum(line.waiting(name) for name in SloClass) == len(inside)
        due_s = line.next_due_s()
        assert (due_s is None) == (not inside)
        assert due_s is None or due_s <= min(q.expires_s for q in inside.values())
        assert len(line._due) <= 6 * len(inside) + 64 + 5
    assert sorted(drain(line)) == sorted(inside)


HALVES = replace(LIMITS, tenant_share=0.5)


def test_one_tenant_fills_its_share_of_requests_and_no_more() -> None:
    line = queue(HALVES)
    for i in range(4):
        line.push(waiting(request(f"a{i}", tenant="a")))
    assert not line.has_room(request("a4", tenant="a"))
    assert line.displaceable(request("a4", tenant="a")) is None
    for i in range(4):
        line.push(waiting(request(f"b{i}", SloClass.BATCH, tenant="b")))
    line.remove("a0")
    line.push(waiting(request("a5", tenant="a")))


def test_one_tenant_fills_its_share_of_bytes_and_no_more() -> None:
    line = queue(HALVES)
    line.push(waiting(request("a0", tenant="a", size_bytes=400)))
    assert not line.has_room(request("a1", tenant="a", size_bytes=101))
    line.push(waiting(request("b0", SloClass.BATCH, tenant="b", size_bytes=500)))
    line.push(waiting(request("a1", tenant="a", size_bytes=100)))
    assert len(line) == 3


def test_one_request_of_a_tenant_is_never_above_its_share() -> None:
    line = queue(HALVES)
    line.push(waiting(request("a0", tenant="a", size_bytes=900)))
    tiny = queue(QueueLimits(requests=1, size_bytes=1000, tenant_share=0.5))
    tiny.push(waiting(request("a0", tenant="a")))


def test_in_a_full_share_only_a_lower_class_of_the_same_tenant_gives_way() -> None:
    line = queue(HALVES)
    line.push(waiting(request("b0", SloClass.BATCH, tenant="b")))
    for i in range(4):
        line.push(waiting(request(f"a{i}", SloClass.STANDARD, tenant="a", arrival_s=float(i))))
    victim = line.displaceable(request("a4", tenant="a"))
    assert victim is not None
    assert victim.request.request_id == "a3"
    assert line.displaceable(request("a4", SloClass.STANDARD, tenant="a")) is None
    assert line.displaceable(request("a4", SloClass.BATCH, tenant="a")) is None


Arrival = tuple[bool, int, int]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2), st.integers(1, 300)), max_size=60))
def test_a_tenant_that_floods_the_queue_takes_no_place_from_one_within_its_share(
    arrivals: list[Arrival],
) -> None:
    """The honest tenant's requests find the same places with the flood as without it."""
    alone, beside = queue(HALVES), queue(HALVES)

    def arrive(line: ModelQueue, made: Request) -> bool:
        if not line.has_room(made):
            victim = line.displaceable(made)
            if victim is None:
                return False
            line.remove(victim.request.request_id)
        line.push(waiting(made))
        return True

    for number, (hostile, rank, size_bytes) in enumerate(arrivals):
        facts = {"tenant": "hostile" if hostile else "honest", "size_bytes": size_bytes}
        made = request(f"r{number}", list(SloClass)[rank], **facts)  # type: ignore[arg-type]
        if hostile:
            arrive(beside, made)
        elif alone.size_bytes + size_bytes <= 500:
            assert arrive(beside, made) == arrive(alone, made)
        mine = {q.request.request_id for q in beside if q.request.tenant == "honest"}
        assert mine == {q.request.request_id for q in alone}
        assert len(beside) <= HALVES.requests
        assert beside.size_bytes <= HALVES.size_bytes
