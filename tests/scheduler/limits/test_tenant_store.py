"""The shared store: bounded, and nobody loses an entry of its share to another tenant."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scheduler.limits.tenant_store import TenantStore


def test_the_oldest_entry_of_the_tenant_with_most_goes() -> None:
    store: TenantStore[str, int] = TenantStore(4)
    store.put("quiet", "q1", 1)
    for number in range(10):
        store.put("loud", f"l{number}", number)
    assert (len(store), store.count("loud"), store.count("quiet")) == (4, 3, 1)
    assert [key for key in ("q1", "l6", "l7", "l8", "l9") if key in store] == [
        *("q1", "l7", "l8", "l9")
    ]
    store.put("quiet", "q2", 2)
    store.put("quiet", "q3", 3)
    assert [store.get(key) for key in ("q1", "q2", "q3")] == [None, 2, 3], "half of four each"
    assert store.oldest() == ("l8", 8)


def test_an_entry_with_the_same_key_is_replaced_and_becomes_the_newest() -> None:
    store: TenantStore[str, int] = TenantStore(2)
    store.put("t", "a", 1)
    store.put("t", "b", 2)
    store.put("t", "a", 3)
    store.put("t", "c", 4)
    assert [store.get(key) for key in "abc"] == [3, None, 4]


def test_a_smaller_bound_holds_from_the_next_entry_on() -> None:
    store: TenantStore[int, int] = TenantStore(9)
    for number in range(9):
        store.put("t", number, number)
    store.resize(2)
    store.put("u", 99, 99)
    assert len(store) == 2
    assert 99 in store


Step = tuple[str, str, int]
TENANTS = ("honest", "loud", "louder")


@given(
    st.integers(3, 12),
    st.lists(
        st.tuples(st.sampled_from(["put", "pop"]), st.sampled_from(TENANTS), st.integers(0, 20)),
        max_size=120,
    ),
)
def test_whatever_others_add_a_tenant_keeps_its_share(most: int, steps: list[Step]) -> None:
    """Three tenants: what each added last, up to a third of the store, stays until it is taken."""
    share = most // len(TENANTS)
    store: TenantStore[tuple[str, int], int] = TenantStore(most)
    added: dict[str, dict[int, int]] = {tenant: {} for tenant in TENANTS}
    for number, (what, tenant, key) in enumerate(steps):
        mine = added[tenant]
        if what == "put":
            mine.pop(key, None)
            mine[key] = number
            if len(mine) > share:
                del mine[next(iter(mine))]  # beyond the share: it may be dropped
            store.put(tenant, (tenant, key), number)
            assert store.get((tenant, key)) == number, "the newest stays"
        else:
            mine.pop(key, None)
            store.pop((tenant, key))
        assert len(store) <= most
        assert sum(store.count(name) for name in TENANTS) == len(store)
        for name, entries in added.items():
            assert all(store.get((name, k)) == v for k, v in entries.items())


@given(st.lists(st.integers(0, 20), max_size=200), st.lists(st.integers(0, 5), max_size=3))
def test_a_hostile_tenant_changes_nothing_for_one_within_its_share(
    hostile: list[int], honest: list[int]
) -> None:
    """The honest tenant finds the same with the other tenant as without."""
    alone: TenantStore[tuple[str, int], int] = TenantStore(6)
    beside: TenantStore[tuple[str, int], int] = TenantStore(6)
    for number in range(max(len(hostile), len(honest))):
        for key in hostile[number : number + 1]:
            beside.put("hostile", ("hostile", key), number)
        for key in honest[number : number + 1]:
            alone.put("honest", ("honest", key), number)
            beside.put("honest", ("honest", key), number)
        for key in range(6):
            assert alone.get(("honest", key)) == beside.get(("honest", key))
