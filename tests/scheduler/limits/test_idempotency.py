"""Idempotency keys: taken once, remembered for 10 minutes, given back on refusal."""

from __future__ import annotations

from scheduler.limits.idempotency import REMEMBERED_S, IdempotencyKeys

KEY = ("team", "once")


def test_a_key_is_taken_while_its_request_runs_and_remembered_after_it() -> None:
    keys = IdempotencyKeys()
    assert keys.first_request(KEY, 0.0) is None
    keys.claim(KEY, "team", "r1")
    assert keys.first_request(KEY, 10 * REMEMBERED_S) == "r1", "however long it runs"
    keys.end(KEY, 5.0, remember=True)
    assert keys.first_request(KEY, 5.0 + REMEMBERED_S - 1) == "r1"
    assert keys.first_request(KEY, 5.0 + REMEMBERED_S) is None
    assert len(keys) == 0


def test_callers_do_not_share_keys() -> None:
    keys = IdempotencyKeys()
    keys.claim(KEY, "team", "r1")
    assert keys.first_request(("other", "once"), 0.0) is None


def test_a_refused_request_gives_its_key_back() -> None:
    keys = IdempotencyKeys()
    keys.claim(KEY, "team", "r1")
    keys.end(KEY, 1.0, remember=False)
    assert keys.first_request(KEY, 1.0) is None


def test_a_tenant_that_fills_the_store_loses_its_own_oldest_keys() -> None:
    keys = IdempotencyKeys(most=10)

    def used(tenant: str, value: str) -> None:
        keys.claim((tenant, value), tenant, value)
        keys.end((tenant, value), 0.0, remember=True)

    used("honest", "once")
    for number in range(1000):
        used("hostile", str(number))
        assert keys.first_request(("honest", "once"), 1.0) == "once"
    assert len(keys) == 10
    assert keys.first_request(("hostile", "0"), 1.0) is None, "its oldest"
    assert keys.first_request(("hostile", "999"), 1.0) == "999"
    keys.claim(("other", "new"), "other", "r")
    assert keys.first_request(("other", "new"), 1.0) == "r", "nobody is refused"


def test_a_smaller_bound_holds_after_a_reload() -> None:
    keys = IdempotencyKeys(most=10)
    for number in range(10):
        keys.claim(("k", str(number)), "t", "r")
        keys.end(("k", str(number)), 0.0, remember=True)
    keys.resize(3)
    keys.claim(KEY, "team", "r")
    keys.end(KEY, 0.0, remember=True)
    assert len(keys) == 3
    assert keys.first_request(KEY, 1.0) == "r"
