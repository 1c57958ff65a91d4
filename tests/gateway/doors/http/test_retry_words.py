"""Each refusal in each dialect: status, type, and the words about retries that clients obey.

A wrong word is dear: an agent of Anthropic's repeats a 400 six times, a 401 for three minutes."""

from __future__ import annotations

import json

import pytest

from gateway.domain.outcomes import RequestRefused
from gateway.doors.anthropic.dialect import ANTHROPIC
from gateway.doors.http.door import error_response
from gateway.doors.http.errors import ErrorKind, HttpError, from_outcome
from gateway.doors.openai.wire.errors import error_shape
from scheduler.budgets.budget_window import Period, Window
from scheduler.contract import RefusalReason

Expected = tuple[int, str, bool]
"""Status, type, whether to send it again."""
TABLE: dict[RefusalReason, tuple[Expected, Expected]] = {
    RefusalReason.QUEUE_FULL: (
        (503, "service_unavailable_error", True),
        (529, "overloaded_error", True),
    ),
    RefusalReason.SHED: (
        (503, "service_unavailable_error", True),
        (529, "overloaded_error", True),
    ),
    RefusalReason.QUEUE_TIMEOUT: (
        (503, "service_unavailable_error", True),
        (529, "overloaded_error", True),
    ),
    RefusalReason.DEADLINE: ((504, "timeout_error", False), (504, "timeout_error", False)),
    RefusalReason.TOO_LONG: (
        (400, "invalid_request_error", False),
        (400, "invalid_request_error", False),
    ),
    RefusalReason.UNKNOWN_MODEL: (
        (404, "not_found_error", False),
        (404, "not_found_error", False),
    ),
    RefusalReason.NO_PLACEMENT_ALLOWED: (
        (400, "invalid_request_error", False),
        (400, "invalid_request_error", False),
    ),
    RefusalReason.UNAVAILABLE: ((503, "server_error", True), (529, "overloaded_error", True)),
    RefusalReason.ATTEMPTS_EXHAUSTED: (
        (503, "server_error", True),
        (529, "overloaded_error", True),
    ),
    RefusalReason.QUARANTINED: (
        (400, "invalid_request_error", False),
        (400, "invalid_request_error", False),
    ),
    RefusalReason.PERMISSION_DENIED: (
        (403, "permission_error", False),
        (403, "permission_error", False),
    ),
    RefusalReason.OUT_OF_BOUNDS: (
        (400, "invalid_request_error", False),
        (400, "invalid_request_error", False),
    ),
    RefusalReason.REQUEST_IN_FLIGHT: (
        (409, "conflict_error", False),
        (409, "invalid_request_error", False),
    ),
    RefusalReason.IDEMPOTENCY_KEY_USED: (
        (409, "conflict_error", False),
        (409, "invalid_request_error", False),
    ),
    RefusalReason.KEY_LIMIT: (
        (429, "rate_limit_error", True),
        (429, "rate_limit_error", True),
    ),
    RefusalReason.BUDGET_SPENT: (
        (429, "insufficient_quota", False),
        (429, "billing_error", False),
    ),
    RefusalReason.BUDGET_HELD: (
        (429, "rate_limit_error", True),
        (429, "rate_limit_error", True),
    ),
    RefusalReason.BUDGET_UNCHECKED: (
        (503, "server_error", True),
        (529, "overloaded_error", True),
    ),
    RefusalReason.PRICE_UNKNOWN: (
        (429, "insufficient_quota", False),
        (429, "billing_error", False),
    ),
    RefusalReason.MAX_COST: (
        (429, "insufficient_quota", False),
        (429, "billing_error", False),
    ),
}
"""OpenAI's dialect, and Anthropic's."""


@pytest.mark.parametrize("reason", RefusalReason)
@pytest.mark.parametrize("dialect", [0, 1])
def test_every_refusal_of_every_dialect(reason: RefusalReason, dialect: int) -> None:
    status, kind, again = TABLE[reason][dialect]
    window = Window(period=Period.DAY, starts_unix_s=0, ends_unix_s=86_400)
    error = from_outcome(
        RequestRefused(
            reason,
            "why",
            retry_after_s=1.2 if again else None,
            window=window if reason is RefusalReason.BUDGET_SPENT else None,
        )
    )
    shape = (error_shape, ANTHROPIC.error)[dialect]
    response = error_response(shape, error, "r", {})
    assert isinstance(response.body, bytes)
    told = json.loads(response.body)
    assert (response.status, told["error"]["type"]) == (status, kind)
    assert "why" in told["error"]["message"]
    assert response.headers["x-should-retry"] == str(again).lower()
    is_reset = dialect == 1 and reason is RefusalReason.BUDGET_SPENT
    assert response.headers.get("retry-after") == ("2" if again else "1" if is_reset else None)
    assert response.headers.get("retry-after-ms") == ("1200" if again else None)


@pytest.mark.parametrize(
    ("dialect", "expected"),
    [(0, (403, "permission_error", False)), (1, (400, "invalid_request_error", False))],
)
def test_a_model_that_the_key_may_not_use(dialect: int, expected: Expected) -> None:
    """Agents of Anthropic's take a 403 for a key that may do nothing."""
    denied = RequestRefused(RefusalReason.PERMISSION_DENIED, "key k may not use it", model="m")
    response = error_response(
        (error_shape, ANTHROPIC.error)[dialect], from_outcome(denied), "r", {}
    )
    assert isinstance(response.body, bytes)
    told = json.loads(response.body)["error"]
    again = response.headers["x-should-retry"] == "true"
    assert (response.status, told["type"], again) == expected
    assert told["message"] == "key k may not use it"


@pytest.mark.parametrize("dialect", [0, 1])
@pytest.mark.parametrize(
    ("kind", "types"),
    [
        (ErrorKind.AUTHENTICATION, ("authentication_error", "authentication_error")),
        (ErrorKind.TOO_LARGE, ("invalid_request_error", "request_too_large")),
        (ErrorKind.NOT_FOUND, ("not_found_error", "not_found_error")),
        (ErrorKind.INTERNAL, ("server_error", "api_error")),
        (ErrorKind.NOT_SUPPORTED, ("not_supported_error", "not_supported")),
    ],
)
def test_no_retry_mends_these(kind: ErrorKind, types: tuple[str, str], dialect: int) -> None:
    shape = (error_shape, ANTHROPIC.error)[dialect]
    response = error_response(shape, HttpError(kind, "why"), "r", {})
    assert isinstance(response.body, bytes)
    assert json.loads(response.body)["error"]["type"] == types[dialect]
    assert response.headers["x-should-retry"] == "false"
