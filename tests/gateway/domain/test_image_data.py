"""Images in base64: decoded in steps, to the same bytes and the same refusals as at once."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain import image_data
from gateway.domain.generation import Image
from gateway.domain.image_data import image_of_base64, image_of_data_url, image_type
from gateway.domain.slices import finish


@pytest.fixture(autouse=True, scope="module")
def _small_pieces() -> object:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(image_data, "PIECE_CHARS", 8)
        yield


@given(st.binary(min_size=1, max_size=60))
def test_an_image_comes_out_as_it_was(data: bytes) -> None:
    encoded = base64.b64encode(data).decode()
    expected = Image(data=data, media_type="image/png")
    assert finish(image_of_base64(encoded, "image/PNG; q=1")) == expected
    assert finish(image_of_data_url(f"data:image/png;base64,{encoded}")) == expected


@given(st.text(st.sampled_from("AQg9+/=*é"), max_size=40))
def test_what_is_no_base64_at_once_is_none_in_steps(text: str) -> None:
    try:
        expected = base64.b64decode(text, validate=True)
    except ValueError:
        expected = b""
    if expected:
        assert finish(image_of_base64(text, "image/png")).data == expected
    else:
        with pytest.raises(ValueError, match=r"not base64|empty"):
            finish(image_of_base64(text, "image/png"))


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("data:image/png,abc", "without base64"),
        ("data:image/png;base64", "without base64"),
        ("data:" + "a" * 2000 + ";base64,AAAA", "without base64"),
        ("data:text/plain;base64,AAAA", "is no image type"),
        ("data:;base64,AAAA", "is no image type"),
        ("data:image/png;base64,", "empty"),
        ("data:image/png;base64,A", "not base64"),
    ],
)
def test_data_urls_that_hold_no_image(url: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        finish(image_of_data_url(url))


def test_names_in_use_are_registered_ones() -> None:
    assert image_type("image/jpg;q=1") == "image/jpeg"


def test_large_data_takes_many_steps() -> None:
    steps = image_of_base64(base64.b64encode(b"a" * 300).decode(), "image/png")
    assert sum(1 for _ in steps) == 50
