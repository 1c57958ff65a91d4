"""Statements: every rule shares exactly what nobody used."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.accounting.reports.overflow import ModelUse, overflow
from gateway.accounting.reports.statement import (
    IDLE_ROW,
    REST_ROW,
    SharingRule,
    Use,
    divided,
    statement,
)
from gateway.accounting.rollups.pool_bills import PoolBill
from scheduler.metering.hours import AMOUNTS

nano_usd = st.integers(0, 10**15)


def bill(pool: str, **amounts: int) -> PoolBill:
    return PoolBill(period="", pool=pool, amounts=dict.fromkeys(AMOUNTS, 0) | amounts)


@given(
    st.integers(-(10**15), 10**15),
    st.dictionaries(st.tuples(st.text(max_size=2)), st.integers(0, 10**12), max_size=8),
)
def test_what_is_divided_sums_to_the_whole(
    amount: int, weights: dict[tuple[str, ...], int]
) -> None:
    parts = divided(amount, weights)
    whole = sum(weights.values())
    assert sum(parts.values()) == (amount if whole else 0)
    for group, part in parts.items():
        assert abs(part - amount * weights[group] / whole) <= 1 + abs(amount) * 1e-12


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("pq"), nano_usd), max_size=8),
    st.lists(st.tuples(nano_usd, nano_usd, nano_usd), min_size=2, max_size=2),
    st.sampled_from(SharingRule),
)
def test_every_rule_closes(
    used: list[tuple[str, str, int]], pools: list[tuple[int, int, int]], rule: SharingRule
) -> None:
    bills = [
        bill(name, decode_nano_usd=decode, idle_nano_usd=idle, external_nano_usd=external)
        for name, (decode, idle, external) in zip("pq", pools, strict=True)
    ]
    uses = [
        Use(group=(who,), pool=pool, own_nano_usd=own, remote_nano_usd=7, charged_nano_usd=1)
        for who, pool, own in used
    ]
    found = statement(bills, uses, rule, {("a",): 3, ("z",): 1})
    lines = sum(line.cost_nano_usd for line in found.lines)
    assert lines + found.unshared_nano_usd == found.bill_nano_usd
    assert found.bill_nano_usd == sum(map(sum, pools)) + 7 * len(uses)
    own = sum(line.own_nano_usd + line.remote_nano_usd for line in found.lines)
    assert own + found.idle_nano_usd + found.rest_nano_usd == found.bill_nano_usd
    if rule in (SharingRule.OWN_ROW, SharingRule.BY_WEIGHT):
        assert found.unshared_nano_usd == 0


def test_use_bears_the_rest_of_its_own_pool_and_what_nobody_used_is_nobodys() -> None:
    bills = [bill("p", decode_nano_usd=100, idle_nano_usd=300), bill("q", idle_nano_usd=50)]
    uses = [
        Use(group=("a",), pool="p", own_nano_usd=75, remote_nano_usd=0, charged_nano_usd=0),
        Use(group=("b",), pool="p", own_nano_usd=25, remote_nano_usd=0, charged_nano_usd=0),
    ]
    found = statement(bills, uses, SharingRule.BY_USE)
    assert [(line.group, line.shared_nano_usd) for line in found.lines] == [
        (("a",), 225),
        (("b",), 75),
    ]
    assert found.unshared_nano_usd == 50
    rows = statement(bills, uses, SharingRule.OWN_ROW).lines[-2:]
    assert [(line.group, line.shared_nano_usd) for line in rows] == [
        ((IDLE_ROW,), 350),
        ((REST_ROW,), 0),
    ]


def test_overflow_is_compared_with_the_mean_rates_of_the_models_own_pools() -> None:
    bills = [
        bill(
            "p",
            prefill_nano_usd=1_000_000,
            decode_nano_usd=3_000_000,
            idle_nano_usd=4_000_000,
            uncached_tokens=1000,
            output_tokens=1000,
        )
    ]

    def use(model: str, pool: str, tokens: tuple[int, int, int], cost: int = 0) -> ModelUse:
        return ModelUse(model=model, pool=pool, requests=2, tokens=tokens, remote_nano_usd=cost)

    own = use("moe", "p", (1000, 0, 1000))
    found = overflow([own, use("moe", "", (10, 0, 10), 500), use("far", "", (9, 9, 9), 90)], bills)
    assert [(model.model, model.remote_nano_usd, model.own_nano_usd) for model in found] == [
        ("far", 90, None),
        # Idle doubles the bill: 2,000 nano-USD a prompt token, 6,000 an output token.
        ("moe", 500, 10 * 2000 + 10 * 6000),
    ]
    cached = overflow([own, use("moe", "", (10, 5, 10), 500)], bills)
    assert cached[0].own_nano_usd is None, "what a cached token costs is not known"
    assert overflow([own], bills) == []
