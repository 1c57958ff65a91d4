"""Idempotency keys: taken once, remembered for 10 minutes, given back on refusal."""

from __future__ import annotations

import pytest

from scheduler.limits import idempotency
from scheduler.limits.idempotency import REMEMBERED_S, IdempotencyKeys

KEY = ("team", "once")


def test_a_key_is_taken_while_its_request_runs_and_remembered_after_it() -> None:
    keys = IdempotencyKeys()
    assert keys.first_request(KEY, 0.0) is None
    assert keys.claim(KEY, "r1")
    assert keys.first_request(KEY, 10 * REMEMBERED_S) == "r1", "however long it runs"
    keys.end(KEY, 5.0, remember=True)
    assert keys.first_request(KEY, 5.0 + REMEMBERED_S - 1) == "r1"
    assert keys.first_request(KEY, 5.0 + REMEMBERED_S) is None
    assert len(keys) == 0


def test_callers_do_not_share_keys() -> None:
    keys = IdempotencyKeys()
    keys.claim(KEY, "r1")
    assert keys.first_request(("other", "once"), 0.0) is None


def test_a_refused_request_gives_its_key_back() -> None:
    keys = IdempotencyKeys()
    keys.claim(KEY, "r1")
    keys.end(KEY, 1.0, remember=False)
    assert keys.first_request(KEY, 1.0) is None


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "MAX_REMEMBERED", 2)
    keys = IdempotencyKeys()
    assert keys.claim(("a", "1"), "r1")
    assert keys.claim(("a", "2"), "r2")
    keys.end(("a", "1"), 0.0, remember=True)
    assert not keys.claim(("a", "3"), "r3")
    assert keys.first_request(("a", "3"), REMEMBERED_S) is None
    assert keys.claim(("a", "3"), "r3")
