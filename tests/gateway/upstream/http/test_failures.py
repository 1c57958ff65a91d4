"""Errors of a server: their kind, and what of their text is passed on."""

from __future__ import annotations

import email.utils
import json
from pathlib import Path

import msgspec
import pytest

from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.upstream.http.failures import http_failure, is_blank

GOLDEN = Path(__file__).resolve().parents[3] / "golden" / "vllm_0_32"
RUST_GOLDEN = GOLDEN.with_name("vllm_0_33_rust")
NOW_UNIX_S = 1_800_000_000.0


def failure(status: int, body: bytes = b"", retry_after: str | None = None) -> UpstreamFailure:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return http_failure(status, body, headers, NOW_UNIX_S)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (204, FailureKind.PROTOCOL),
        (307, FailureKind.PROTOCOL),
        (400, FailureKind.BAD_REQUEST),
        (401, FailureKind.CREDENTIALS),
        (402, FailureKind.CREDIT),
        (403, FailureKind.CREDENTIALS),
        (404, FailureKind.MODEL_NOT_FOUND),
        (405, FailureKind.PROTOCOL),
        (408, FailureKind.TIMEOUT),
        (413, FailureKind.BAD_REQUEST),
        (422, FailureKind.BAD_REQUEST),
        (429, FailureKind.BUSY),
        (500, FailureKind.SERVER_ERROR),
        (502, FailureKind.SERVER_ERROR),
        (503, FailureKind.BUSY),
        (529, FailureKind.BUSY),
    ],
)
def test_kinds_by_status(status: int, kind: FailureKind) -> None:
    found = failure(status, b"<html>secret page</html>")
    assert found.kind is kind
    assert str(status) in found.message
    assert "secret" not in found.message


@pytest.mark.parametrize(
    ("name", "status", "param", "words"),
    [
        ("error_context_overflow.json", 400, "input_tokens", "maximum context length is 8192"),
        ("error_bad_temperature.json", 400, "temperature", "must be non-negative"),
        ("error_bad_type.json", 400, "body.max_tokens", "Input should be a valid integer"),
        ("error_unknown_model.json", 404, "model", "does not exist"),
    ],
)
def test_what_vllm_said(name: str, status: int, param: str, words: str) -> None:
    found = failure(status, (GOLDEN / name).read_bytes())
    assert found.param == param
    assert words in found.message


@pytest.mark.parametrize(
    ("name", "status", "param", "words"),
    [
        ("error_context_overflow.json", 400, "input_tokens", "maximum context length is 8192"),
        ("error_bad_temperature.json", 400, "temperature", "Validation error: range"),
        ("error_bad_type.json", 400, "max_tokens", "invalid type: string, expected u32"),
        ("error_unknown_model.json", 404, "model", "does not exist"),
        ("chat_stream_n2.sse", 400, "n", "Only n=1 is supported."),
    ],
)
def test_what_the_front_end_in_rust_said(name: str, status: int, param: str, words: str) -> None:
    found = failure(status, (RUST_GOLDEN / name).read_bytes())
    assert found.param == param
    assert words in found.message


@pytest.mark.parametrize(
    "text",
    [
        'user: invalid type: string "my prompt", expected u32 at line 1 column 9',
        'user: invalid value: string "my prompt \\", expected u32", expected b',
        "user: unknown variant `my prompt`, expected `a` or `b`",
        'user: Validation error: length [{"min": Number(1), "value": String("my prompt")}]',
        # Cut short.
        f'user: invalid type: string "{"my prompt " * 500}',
        f"user: unknown variant `{'my prompt ' * 500}",
    ],
)
def test_what_a_server_in_rust_quotes_is_left_out(text: str) -> None:
    found = failure(400, json.dumps({"error": {"message": text, "code": 400}}).encode())
    assert "prompt" not in found.message
    assert found.param == "user"


def test_the_input_that_a_schema_check_quotes_is_left_out() -> None:
    found = failure(400, (GOLDEN / "error_bad_type.json").read_bytes())
    assert "many" not in found.message
    lines = [f"{{'loc': 'a', 'msg': 'bad', 'input': 'my prompt {i}'}}" for i in range(2)]
    body = json.dumps({"error": {"message": "2 errors:\n" + "\n".join(lines)}}).encode()
    assert failure(400, body).message.count("bad") == 2
    assert "prompt" not in failure(400, body).message


def test_the_key_that_a_refused_login_quotes_is_left_out() -> None:
    body = b'{"error": {"message": "Incorrect API key provided: sk-secret"}}'
    assert "sk-" not in failure(401, body).message


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": "too  many\\nrequests"}',
        b'{"error": {"message": "too many requests"}}',
        b'{"message": "too many requests"}',
        b'{"detail": "too many requests"}',
    ],
)
def test_shapes_of_error_bodies(body: bytes) -> None:
    assert failure(429, body).message == "HTTP 429: too many requests"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"null", b"{}", b'{"detail": [{"loc": 1}]}', b"[" * 60_000, b"\xff\x00"]
)
def test_bodies_that_tell_nothing(body: bytes) -> None:
    assert failure(500, body).message == "HTTP 500"


def test_texts_are_bounded() -> None:
    body = json.dumps({"error": {"message": "x" * 50_000, "param": "p" * 50_000}}).encode()
    found = failure(400, body)
    assert len(found.message) == 500
    assert len(found.param) == 100


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("7", 7.0),
        ("1.5", 1.5),
        ("-3", 0.0),
        ("inf", 3600.0),
        ("99999999", 3600.0),
        ("nan", None),
        ("soon", None),
        ("", None),
        (email.utils.formatdate(NOW_UNIX_S + 30, usegmt=True), 30.0),
        (email.utils.formatdate(NOW_UNIX_S - 30, usegmt=True), 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600.0),
        ("Fri, 99 Dec 2026 99:99:99 GMT", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert failure(429, b"", value).retry_after_s == seconds


@pytest.mark.parametrize(
    ("status", "error", "retry_after", "kind", "fault"),
    [
        (400, {"code": "context_length_exceeded"}, None, "CONTEXT_LENGTH", "REQUEST"),
        (400, {"message": "The maximum context length is 9."}, None, "CONTEXT_LENGTH", "REQUEST"),
        (400, {"code": "content_filter"}, None, "CONTENT_FILTER", "REQUEST"),
        (400, {"type": "content_policy_violation"}, None, "CONTENT_FILTER", "REQUEST"),
        (400, {"message": "temperature"}, None, "BAD_REQUEST", "REJECTED"),
        (402, {"message": "pay"}, None, "CREDIT", "ACCOUNT"),
        (402, {"message": "in flight"}, "3", "BUSY", "BUSY"),
        (429, {"code": "insufficient_quota"}, None, "CREDIT", "ACCOUNT"),
        (429, {"type": "rate_limit"}, "3", "BUSY", "BUSY"),
        (503, {}, None, "BUSY", "BUSY"),
        (401, {}, None, "CREDENTIALS", "ACCOUNT"),
        (500, {}, None, "SERVER_ERROR", "PLACEMENT"),
    ],
)
def test_the_words_of_an_error_tell_whose_fault_it_is(
    status: int, error: dict[str, str], retry_after: str | None, kind: str, fault: str
) -> None:
    found = failure(status, msgspec.json.encode({"error": error}), retry_after)
    assert (found.kind.name, found.fault.name) == (kind, fault)


@pytest.mark.parametrize(
    ("error", "blank"),
    [
        (b"null", True),
        (b'""', True),
        (b"0", True),
        (b"false", True),
        (b"{}", True),
        (b'{"code":null,"message":"","details":{}}', True),
        (b'{"code":200,"message":"Success"}', True),
        (b'"OK"', True),
        (b'{"code":200,"message":"out of memory"}', False),
        (b'"no"', False),
        (b"true", False),
        (b'{"a":' * 900 + b"0" + b"}" * 900, False),
    ],
)
def test_whether_an_error_tells_one(error: bytes, blank: bool) -> None:
    assert is_blank(msgspec.json.decode(error)) is blank
