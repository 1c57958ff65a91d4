"""What is known of the adapters of one placement."""

from __future__ import annotations

from scheduler.adapters.adapter_report import AdapterReport
from scheduler.adapters.adapter_slots import AdapterSlots


def slots(
    *loaded: str, active: frozenset[str] | None = None, most_active: int | None = None
) -> AdapterSlots:
    made = AdapterSlots()
    assert made.observe(report(*loaded, active=active, most_active=most_active))
    return made


def report(
    *loaded: str, active: frozenset[str] | None = None, most_active: int | None = None
) -> AdapterReport:
    names = frozenset(loaded)
    return AdapterReport(placement="a", loaded=names, active=active, most_active=most_active)


def test_a_server_that_has_told_nothing_has_no_adapter() -> None:
    assert AdapterSlots().loaded == frozenset()
    assert AdapterSlots().has_slot("x", external=False), "without a bound there is room"


def test_only_other_adapters_count_as_a_change() -> None:
    made = slots("x")
    assert not made.observe(report("x", active=frozenset("x"), most_active=2))
    assert made.observe(report("y"))
    assert made.loaded == {"y"}


def test_as_many_adapters_run_as_the_engine_has_slots() -> None:
    made = slots("x", "y", "z", most_active=2)
    made.begin("x")
    made.begin("x")
    assert made.has_slot("y", external=False)
    made.begin("y")
    assert made.has_slot("x", external=False), "one that runs needs no further slot"
    assert not made.has_slot("z", external=False)
    made.end("x")
    assert not made.has_slot("z", external=False), "another request for x still runs"
    made.end("x")
    assert made.has_slot("z", external=False)
    assert made.running(external=False) == {"y"}


def test_what_others_run_counts_only_while_others_run() -> None:
    made = slots("x", "y", active=frozenset({"x"}), most_active=1)
    assert not made.has_slot("y", external=True)
    assert made.has_slot("y", external=False), "what was told of own requests is over"


def test_an_adapter_stays_in_its_slot_until_another_takes_it() -> None:
    made = slots("x", "y", "z", most_active=2)
    for name in ("x", "y"):
        made.begin(name)
        made.end(name)
    assert made.is_active("x", external=False)
    made.begin("x")
    made.begin("z")
    assert not made.is_active("y", external=False), "the least recently used one left"
    assert made.is_active("x", external=False)
    assert made.is_active("z", external=False)
    made.end("z")
    made.restart()
    assert not made.is_active("z", external=False), "a new engine has empty slots"
    assert made.is_active("x", external=False)
