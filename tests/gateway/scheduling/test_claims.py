"""Claims are taken all together or not at all, and freed by the release."""

from __future__ import annotations

from gateway.scheduling.claims import Claims, client_id
from scheduler.contract import RefusalReason
from scheduler.limits.idempotency import REMEMBERED_S
from scheduler.limits.rate_limit import RateLimits
from tests import serving
from tests.gateway.scheduling.scheduling_made import submission
from tests.scheduler.requests_made import request

ONE = RateLimits(concurrent_requests=1)


def test_a_key_limit_gives_the_idempotency_key_back() -> None:
    claims = Claims()
    first = submission("k/r1", key_limits=ONE)
    second = submission("k/r2", key_limits=ONE, idempotency_key="once")
    assert claims.claim(first, 0.0) is None
    refusal = claims.claim(second, 0.0)
    assert refusal is not None
    assert refusal.reason is RefusalReason.KEY_LIMIT
    assert "concurrent_requests" in refusal.message
    claims.release(first, 0, 0.0, keep_key=False)
    assert claims.claim(second, 0.0) is None


def test_a_used_key_names_its_request_and_takes_no_slot() -> None:
    claims = Claims()
    first = submission("k/r1", idempotency_key="once")
    again = submission("k/r2", key_limits=ONE, idempotency_key="once")
    assert claims.claim(first, 0.0) is None
    claims.release(first, 0, 0.0, keep_key=True)
    refusal = claims.claim(again, 1.0)
    assert refusal is not None
    assert refusal.reason is RefusalReason.IDEMPOTENCY_KEY_USED
    assert refusal.other_request_id == "r1"
    # The refusal holds no slot: another request of the key fits its limit of one.
    assert claims.claim(submission("k/r3", key_limits=ONE), 1.0) is None
    other_key = submission("j/r1", idempotency_key="once", key_id="j")
    assert claims.claim(other_key, 1.0) is None, "each API key has idempotency keys of its own"


def test_an_idempotency_key_is_forgotten_in_the_end() -> None:
    claims = Claims()
    first = submission("k/r1", idempotency_key="once")
    assert claims.claim(first, 0.0) is None
    claims.release(first, 0, 0.0, keep_key=True)
    again = submission("k/r2", idempotency_key="once")
    assert claims.claim(again, REMEMBERED_S - 1.0) is not None
    assert claims.claim(again, REMEMBERED_S + 1.0) is None


def test_used_tokens_replace_the_estimate() -> None:
    claims = Claims()
    limits = RateLimits(tokens_per_minute=1000)
    first = submission("k/r1", key_limits=limits, prompt_tokens=900)
    assert claims.claim(first, 0.0) is None
    second = submission("k/r2", key_limits=limits, prompt_tokens=200)
    assert claims.claim(second, 0.0) is not None
    claims.release(first, 100, 0.0, keep_key=False)
    assert claims.claim(second, 0.0) is None


def test_the_clients_id_has_no_key() -> None:
    assert client_id(request("k/r1", key_id="k")) == "r1"
    assert client_id(request("other/r1", key_id="k")) == "other/r1"


def test_a_submission_takes_no_request_again() -> None:
    claims, limits = Claims(), RateLimits(requests_per_minute=1)
    assert claims.take_request("k", limits, 0.0) is None
    assert claims.claim(submission("k/r1", key_limits=limits), 0.0) is None
    refusal = claims.take_request("k", limits, 0.0)
    assert refusal is not None
    assert (refusal.limit, refusal.retry_after_s) == ("requests_per_minute", 60.0)


def test_rpcs_and_generations_share_the_slots_of_a_key() -> None:
    claims = Claims()
    assert claims.take_slot("k", ONE) is None
    assert claims.claim(submission("k/r1", key_limits=ONE, key_id="k"), 0.0) is not None
    claims.free_slot("k", 0.0)
    assert claims.claim(submission("k/r1", key_limits=ONE, key_id="k"), 0.0) is None
    assert claims.take_slot("k", ONE) is not None


def test_a_reload_drops_what_belongs_to_keys_that_are_gone() -> None:
    claims = Claims()
    limits = RateLimits(requests_per_minute=1)
    for key_id in ("gone", "test"):
        assert claims.take_request(key_id, limits, 0.0) is None
    claims.configure(serving.config())  # its key is `test`
    assert claims.take_request("test", limits, 0.0) is not None
    assert claims.take_request("gone", limits, 0.0) is None, "its state is gone"
