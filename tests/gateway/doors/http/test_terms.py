"""Terms of service from the headers of a request."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from gateway.doors.http.errors import HttpError
from gateway.doors.http.terms import Terms, terms_of
from scheduler.contract import SloClass


def test_no_header_asks_for_nothing() -> None:
    assert terms_of(CIMultiDict({"accept": "*/*"})) == Terms()


def test_every_header_is_read() -> None:
    headers = {
        "X-Moegate-Request-Id": "r-1",
        "X-Moegate-Deadline": "90s",
        "X-Moegate-Class": "Batch",
        "X-Moegate-Slo-Ttft": "500ms",
        "X-Moegate-Slo-Tpot": "0.05",
        "X-Moegate-Priority": "-3",
        "X-Moegate-Data-Policy": "eu, us",
        "X-Moegate-Max-Cost": "0.05",
        "X-Moegate-Session-Id": "s-1",
        "Idempotency-Key": "k-1",
    }
    assert terms_of(CIMultiDict(headers)) == Terms(
        request_id="r-1",
        remaining_s=90.0,
        slo_class=SloClass.BATCH,
        ttft_s=0.5,
        tpot_s=0.05,
        priority=-3,
        remote_classes=frozenset({"eu", "us"}),
        max_cost_nano_usd=50_000_000,
        session_id="s-1",
        idempotency_key="k-1",
    )
    local = terms_of(CIMultiDict({"x-moegate-data-policy": "local-only"}))
    assert (local.local_only, local.remote_classes) == (True, frozenset())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("request-id", "a b"),
        ("deadline", "soon"),
        ("deadline", "0s"),
        ("deadline", "1h"),
        ("class", "fast"),
        ("slo-ttft", "-1s"),
        ("slo-tpot", "nan"),
        ("priority", "11"),
        ("priority", "1.5"),
        ("data-policy", ""),
        ("data-policy", "eu,,us"),
        ("max-cost", "0"),
        ("max-cost", "$1"),
        ("max-cost", "1e3"),
    ],
)
def test_a_value_that_means_nothing_is_refused_by_the_name_of_its_header(
    name: str, value: str
) -> None:
    with pytest.raises(HttpError) as caught:
        terms_of(CIMultiDict({f"x-moegate-{name}": value}))
    assert caught.value.status == 400
    assert caught.value.param == f"x-moegate-{name}"
    assert "give " in caught.value.message


@pytest.mark.parametrize(
    "name",
    ["x-claude-code-session-id", "session-id", "session_id", "x-session-id", "x-session-affinity"],
)
def test_sessions_come_from_the_headers_of_clients(name: str) -> None:
    assert terms_of(CIMultiDict({name: "s-2"})).session_id == "s-2"
    mine = {name: "s-2", "x-moegate-session-id": "s-1"}
    assert terms_of(CIMultiDict(mine)).session_id == "s-1"
    for unusable in ("", "x" * 129, "\u00e9"):
        assert terms_of(CIMultiDict({name: unusable})).session_id == ""


@pytest.mark.parametrize(("value", "hops"), [("0", 0), ("4", 4)])
def test_the_gateways_on_the_way_are_counted(value: str, hops: int) -> None:
    assert terms_of(CIMultiDict({"moegate-hops": value})).hops == hops


@pytest.mark.parametrize("value", ["5", "99", "100", "-1", "a", ""])
def test_too_many_gateways_are_refused(value: str) -> None:
    with pytest.raises(HttpError) as caught:
        terms_of(CIMultiDict({"moegate-hops": value}))
    assert (caught.value.status, caught.value.may_retry) == (400, False)
    assert caught.value.param == "moegate-hops"


@pytest.mark.parametrize(("key", "said"), [("\udcff\udcfe", "no UTF-8"), ("k" * 129, "129 bytes")])
def test_an_idempotency_key_that_cannot_be_kept_is_refused(key: str, said: str) -> None:
    with pytest.raises(HttpError, match=said) as caught:
        terms_of(CIMultiDict({"Idempotency-Key": key}))
    assert (caught.value.status, caught.value.param) == (400, "idempotency-key")


@pytest.mark.parametrize("second", ["local-only", "us", ""], ids=["stricter", "another", "empty"])
def test_a_header_that_is_given_twice_is_refused_unless_both_agree(second: str) -> None:
    headers = CIMultiDict({"x-moegate-data-policy": "eu"})
    headers.add("X-Moegate-Data-Policy", " eu ")
    assert terms_of(headers).remote_classes == {"eu"}
    headers.add("X-Moegate-Data-Policy", second)
    with pytest.raises(HttpError, match="give it once") as caught:
        terms_of(headers)
    assert caught.value.param == "x-moegate-data-policy"


@pytest.mark.parametrize("name", ["x-moegate-data_policy", "X-Moegate-DataPolicy", "x-moegate-x"])
def test_a_slip_in_the_name_of_a_header_is_told(name: str) -> None:
    with pytest.raises(HttpError, match="data-policy") as caught:
        terms_of(CIMultiDict({name: "local-only"}))
    assert caught.value.param == name.lower()


def test_headers_of_an_answer_may_come_back() -> None:
    answer = {"x-moegate-placement": "far", "x-moegate-reason": "", "x-moegate-cost-usd": "0"}
    assert terms_of(CIMultiDict({**answer, "x-moegate": "1", "x-other": "2"})) == Terms()
