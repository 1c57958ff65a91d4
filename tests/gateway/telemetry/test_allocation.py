"""The counter of allocated cost: bounded whatever callers send, complete, and never falling."""

from __future__ import annotations

import math
from collections import defaultdict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from gateway.domain.tags import labels_json
from gateway.telemetry import instruments
from gateway.telemetry.instruments import OTHER, Allocation
from scheduler.contract import PlacementKind
from scheduler.metering.hours import AMOUNTS
from scheduler.metering.meter import PoolHour
from scheduler.metering.settlement import SettledAttempt
from tests.ledgers import settled

TEAMS = st.sampled_from(["", *(f"team-{n}" for n in range(6)), "__idle__", OTHER])
PROJECTS = st.sampled_from(["", *(f"project-{n}" for n in range(4))])
MOST_VALUES = 3


@st.composite
def attempts(draw: st.DrawFn) -> SettledAttempt:
    labels = {
        "team": draw(TEAMS),
        "cost.project": draw(PROJECTS),
        "trace": draw(st.text("ab", max_size=4)),
    }
    charged = draw(st.none() | st.integers(0, 10**12))
    one = settled(
        charged=charged,
        tenant=f"tenant-{draw(st.integers(0, 3))}",
        model=draw(st.sampled_from(["moe", "dense"])),
    )
    is_remote = draw(st.booleans())
    return msgspec.structs.replace(
        one,
        labels_json=labels_json({key: value for key, value in labels.items() if value}),
        **({"pool": "", "kind": PlacementKind.REMOTE, "placement": "cloud"} if is_remote else {}),
    )


def counted(registry: CollectorRegistry) -> dict[tuple[tuple[str, str], ...], float]:
    return {
        tuple(sample.labels.items()): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "moegate_cost_allocation_usd_total"
    }


@pytest.mark.parametrize("most_series", [2000, 5])
@given(found=st.lists(attempts(), max_size=60))
def test_all_cost_is_counted_in_few_series(most_series: int, found: list[SettledAttempt]) -> None:
    registry = CollectorRegistry()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(instruments, "MOST_SERIES", most_series)
        patch.setattr(instruments, "MAX_TENANTS", 2)
        allocation = Allocation(registry, ("team", "cost.project"), MOST_VALUES)
        for account in found:
            allocation.settled(account)
    series = counted(registry)
    known = [each.metered_nano_usd for each in found if each.metered_nano_usd is not None]
    assert math.isclose(sum(series.values()), sum(known) / 1e9, abs_tol=1e-9)
    assert len(series) <= most_series + 1
    values = defaultdict(set)
    for labels in series:
        for name, value in labels:
            values[name].add(value)
    for name, most in (
        ("moegate_tenant", 2),
        ("label_team", MOST_VALUES),
        ("label_cost_project", MOST_VALUES),
    ):
        assert len(values[name] - {"", OTHER}) <= most
        assert "__idle__" not in values[name], "a caller takes no name of the gateway's"
    assert not any("trace" in name for name in values)


def test_each_label_has_its_cost() -> None:
    registry = CollectorRegistry()
    allocation = Allocation(registry, ("team",), MOST_VALUES)
    for number, team in enumerate(("red", "blue", "red", "")):
        labels = labels_json({"team": team} if team else {})
        allocation.settled(
            msgspec.structs.replace(settled(charged=10**9 * (number + 1)), labels_json=labels)
        )
    by_team = {dict(labels)["label_team"]: usd for labels, usd in counted(registry).items()}
    assert by_team == {"red": 8.0, "blue": 4.0, "": 8.0}


def hour(**amounts: int) -> PoolHour:
    return PoolHour(pool="own", hour=1, amounts=dict.fromkeys(AMOUNTS, 0) | amounts)


@given(st.lists(st.integers(-(10**9), 10**10), max_size=30))
def test_idle_is_a_row_of_its_own_that_never_falls(amounts: list[int]) -> None:
    registry = CollectorRegistry()
    allocation = Allocation(registry, ("team",), MOST_VALUES)
    total = highest = 0
    shown = 0.0
    for amount in amounts:
        allocation.booked([hour(idle_nano_usd=amount)])
        total += amount
        highest = max(highest, total)
        before, shown = shown, sum(counted(registry).values())
        assert shown >= before
        assert math.isclose(shown, highest / 1e9, abs_tol=1e-6)
    row = {
        "moegate_tenant": "__idle__",
        "gen_ai_request_model": "",
        "moegate_pool": "own",
        "moegate_route": "local",
        "label_team": "__idle__",
    }
    assert all(dict(labels) == row for labels in counted(registry))


def test_what_else_no_request_used_is_unallocated() -> None:
    registry = CollectorRegistry()
    allocation = Allocation(registry, (), MOST_VALUES)
    allocation.booked(
        [hour(unavailable_nano_usd=10**9, external_nano_usd=10**9, unobserved_nano_usd=10**9)]
    )
    allocation.booked([hour(waste_nano_usd=10**9, decode_nano_usd=10**9)])
    [(labels, usd)] = counted(registry).items()
    assert (dict(labels)["moegate_tenant"], usd) == ("__unallocated__", 3.0)
