"""The text of an error survives in every shape in which servers send it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.http.error_body import read_any_error, read_error
from gateway.upstream.http.failures import failure_in, failure_of_event, http_failure

SAID = "the seed is too large"
SHAPES: list[Any] = [
    {"error": {"message": SAID}},
    {"error": {"message": SAID, "type": "x", "param": None, "code": None}},
    {"error": SAID},
    {"error": [SAID]},
    {"error": {"error": {"message": SAID}}},
    {"message": SAID},
    {"Message": SAID},
    {"msg": SAID},
    {"detail": SAID},
    {"detail": {"message": SAID}},
    {"detail": {"error": SAID}},
    {"detail": [{"msg": SAID, "type": "value_error"}]},
    [{"error": {"code": 400, "message": SAID, "status": "INVALID_ARGUMENT"}}],
    {"errors": [SAID]},
    {"errors": [{"message": SAID}]},
    {"errors": {"message": SAID}},
    {"code": "InvalidParameter", "message": SAID, "request_id": "r"},
    {"base_resp": {"status_code": 2013, "status_msg": SAID}},
    {"object": "error", "message": SAID, "type": "BadRequestError", "param": None, "code": 400},
    {"type": "error", "error": {"type": "invalid_request_error", "message": SAID}},
    {"error": {"message": json.dumps({"error": {"message": SAID}}), "code": 400}},
    {"error": {"code": 400, "metadata": {"raw": json.dumps({"error": {"message": SAID}})}}},
    {"error": json.dumps({"message": SAID})},
    {"error": {"message": " the seed\n  is too\tlarge "}},
    {"success": False, "error_message": SAID},
    {"error": "invalid_request", "error_description": SAID},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_text_survives(shape: object) -> None:
    message = http_failure(400, json.dumps(shape).encode(), {}, 0.0).message
    assert message.startswith("HTTP 400: ")
    assert message.endswith(SAID) or f"{SAID}: invalid_request" in message


def test_what_a_provider_behind_a_proxy_says_is_added() -> None:
    raw = json.dumps({"error": {"message": SAID, "code": "rate_limit_exceeded"}})
    error = {
        "message": "Provider returned error",
        "code": 400,
        "metadata": {"raw": raw, "provider_name": "Far"},
    }
    found = read_error(json.dumps({"error": error}).encode())
    assert found is not None
    assert found.message == f"Provider returned error: {SAID}"
    assert "rate_limit_exceeded" in found.words
    assert found.status == 400


def test_the_list_of_fastapi_names_the_fields() -> None:
    detail = [
        {"loc": ["body", "seed"], "msg": "Input should be a valid integer", "input": "my prompt"},
        {"loc": ["body", "n"], "msg": "too large", "type": "x"},
    ]
    one = http_failure(422, json.dumps({"detail": detail[:1]}).encode(), {}, 0.0)
    assert one.message == "HTTP 422: body.seed: Input should be a valid integer"
    assert one.param == "body.seed"
    both = http_failure(422, json.dumps({"detail": detail}).encode(), {}, 0.0)
    assert "body.n: too large" in both.message
    assert "my prompt" not in both.message
    assert both.param == ""


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"too many requests", "HTTP 502: too many requests"),
        (b"<html><head><title>502 Bad\nGateway</title></head>", "HTTP 502: 502 Bad Gateway"),
        (b"<TITLE>a &amp; b</TITLE>secret", "HTTP 502: a & b"),
        (b"<html>secret page</html>", "HTTP 502"),
        (b"<!DOCTYPE html>" + b"x" * 100_000, "HTTP 502"),
        (b"{", "HTTP 502"),
        (b"{oops", "HTTP 502"),
        (b"\x00\x01binary", "HTTP 502"),
        (b"\xff\xfe", "HTTP 502"),
        (b"", "HTTP 502"),
        (b"null", "HTTP 502"),
        (b"{}", "HTTP 502"),
        (b'{"error": {}}', "HTTP 502"),
    ],
)
def test_bodies_that_are_no_json(body: bytes, message: str) -> None:
    assert http_failure(502, body, {}, 0.0).message == message


def test_texts_stay_bounded() -> None:
    wide = ({"errors": ["x" * 50_000] * 1000}, {"detail": [{"msg": "y" * 9000}] * 99})
    deep = b'{"error":' * 5000 + b'"x"' + b"}" * 5000
    for body in (deep, *(json.dumps(value).encode() for value in wide)):
        assert len(http_failure(400, body, {}, 0.0).message) <= 500


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(
                ["error", "errors", "detail", "message", "code", "base_resp", "loc", "msg"]
            )
            | st.text(),
            inner,
        )
    ),
    max_leaves=20,
)


@given(JSON, st.integers(min_value=201, max_value=599))
def test_whatever_json_comes_is_read(value: object, status: int) -> None:
    body = json.dumps(value, allow_nan=False, default=str).encode() if _finite(value) else b"NaN"
    assert len(http_failure(status, body, {}, 0.0).message) <= 500
    failure_in(body)
    failure_of_event(body)


@given(st.binary(max_size=200))
def test_whatever_bytes_come_are_read(body: bytes) -> None:
    read_any_error(body)
    failure_in(body)


def _finite(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":{"message":"too long \\ud83d","code":"1261"}}', "too long \ufffd"),
        # JSON of another server, cut amid a character.
        (b'{"error":{"message":"{too long \\ud83d","code":"1261"}}', "{too long \ufffd"),
        ('{"error":{"message":"超长","code":"1261"}}'.encode("gbk"), None),
        (b'\xef\xbb\xbf{"error":{"message":"too long","code":"1261"}}', "too long"),
        (b'{"error":{"message":"too long","code":"1261","at":NaN}}', "too long"),
    ],
)
def test_an_error_in_another_spelling_of_json_is_read(body: bytes, message: str | None) -> None:
    found = read_any_error(body)
    assert "1261" in found.words
    assert message in (None, found.message)
    found.message.encode()


@pytest.mark.parametrize("text", ['data: {"choices":[]}', "event: x\ndata: secret"])
def test_a_stream_is_no_text_of_an_error(text: str) -> None:
    assert read_any_error(text.encode()).message == ""
