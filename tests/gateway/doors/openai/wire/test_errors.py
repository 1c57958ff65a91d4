"""Errors in OpenAI's shape: every kind has a type, and fields have OpenAI's names."""

from __future__ import annotations

import json

import pytest

from gateway.doors.http.errors import ErrorKind, HttpError, invalid
from gateway.doors.openai.wire.errors import error_shape


@pytest.mark.parametrize("kind", ErrorKind)
def test_every_kind_has_a_type(kind: ErrorKind) -> None:
    error = HttpError(kind, "why", code="c")
    shape = error_shape(error, "r-1")
    assert shape.status == error.status
    found = json.loads(shape.body)["error"]
    assert found["message"] == "why"
    assert found["type"]
    assert found["code"] == ("insufficient_quota" if kind is ErrorKind.BUDGET else "c")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("chat.messages[0].parts[1].image", "messages[0].parts[1].image"),
        ("max_output_tokens", "max_output_tokens"),
        ("choices", "n"),
        ("sampling.top_k", "top_k"),
        ("response_format", "response_format"),
    ],
)
def test_fields_have_the_names_of_the_dialect(path: str, name: str) -> None:
    found = json.loads(error_shape(invalid(path, "7: give less"), "r-1").body)["error"]
    assert (found["param"], found["message"]) == (name, f"{name}: 7: give less")
