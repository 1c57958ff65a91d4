"""Which images a request may hold."""

from __future__ import annotations

import pytest
from msgspec import structs

from gateway.config.gateway import GatewayConfig
from gateway.config.limits import LimitsConfig
from gateway.domain.generation import Chat, Generation, Image, Message, Role
from gateway.domain.image_policy import ImageRules, host_allowed, image_fault
from gateway.pipeline.settings import pipeline_settings

PICTURE = Image(data=b"\x89PNG", media_type="image/png")
CLOSED = pipeline_settings(GatewayConfig()).images
HOSTS = ("a.example.com", "*.cdn.example.com", "b.example.com:8443")
OPEN = pipeline_settings(GatewayConfig(limits=LimitsConfig(image_url_hosts=HOSTS))).images


def fault(rules: ImageRules, *images: Image) -> tuple[str, str] | None:
    message = Message(role=Role.USER, parts=("Look:", *images))
    chat = Chat(messages=(message,))
    generation = Generation(request_id="r", model="moe", input=chat, max_output_tokens=1)
    return image_fault(generation, rules)


def refusal(rules: ImageRules, *images: Image) -> tuple[str, str]:
    found = fault(rules, *images)
    assert found is not None
    return found


def test_without_a_list_images_come_as_data_only() -> None:
    assert fault(CLOSED, PICTURE) is None
    field, text = refusal(CLOSED, PICTURE, Image(url="https://a.example.com/b.png"))
    assert field == "chat.messages[0].parts[2].image.url"
    for word in ("https://a.example.com/b.png", "as data", "limits.image_url_hosts"):
        assert word in text


@pytest.mark.parametrize(
    "url",
    [
        "https://a.example.com",
        "https://a.example.com/",
        "https://a.example.com/x/y.png?size=1&q=[1]#top",
        "https://a.example.com?x",
        "https://a.example.com:443/x",
        "https://A.Example.COM/x",
        "https://x.cdn.example.com/x",
        "https://x.y.cdn.example.com/x",
        "https://b.example.com:8443/x",
    ],
)
def test_hosts_of_the_list_may_be_fetched_from(url: str) -> None:
    assert fault(OPEN, Image(url=url)) is None


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/x",
        "https://a.example.com.evil.example/x",
        "https://evil.example/a.example.com",
        "https://a.example.com@evil.example/x",
        "https://evil.example#@a.example.com/x",
        "https://evil.example\\@a.example.com/x",
        "https://a.example.com\\.evil.example/x",
        "https://evil.example?x=https://a.example.com",
        "https://a.example.com:8443/x",
        "https://b.example.com/x",
        "https://cdn.example.com/x",
        "https://notcdn.example.com/x",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/x",
        "https://localhost/x",
        "https:///x",
        "https://",
        "https://a.example.com/x y",
        "https://a.example.com/x\ny",
        "https://a.example.com/x\x00",
        "https://а.example.com/x",  # noqa: RUF001 - the Cyrillic letter is the test
        "HTTPS://a.example.com/x",
        "http://a.example.com/x",
        "file:///etc/passwd",
        "https://a.example.com/" + "x" * 3000,
    ],
)
def test_no_other_address_may_be_fetched_from(url: str) -> None:
    _, text = refusal(OPEN, Image(url=url))
    assert len(text) < 400


@pytest.mark.parametrize("media_type", ["image/svg+xml", "image/", "image/x", "text/html", ""])
def test_data_is_a_picture(media_type: str) -> None:
    field, _ = refusal(CLOSED, Image(data=b"x", media_type=media_type))
    assert field.endswith(".image")


def test_the_size_and_the_number_of_images_are_bounded() -> None:
    small = structs.replace(CLOSED, max_bytes=4, most=3)
    assert fault(small, PICTURE, PICTURE, PICTURE) is None
    assert "limits.images" in refusal(small, *(4 * [PICTURE]))[1]
    large = Image(data=b"12345", media_type="image/png")
    assert "limits.image_bytes" in refusal(small, large)[1]


def test_prompts_without_images_pass() -> None:
    generation = Generation(request_id="r", model="moe", input=(1, 2), max_output_tokens=1)
    assert image_fault(generation, CLOSED) is None


def test_a_wildcard_is_no_suffix() -> None:
    assert host_allowed("x.example.com", ["*.example.com"])
    assert not host_allowed("example.com", ["*.example.com"])
    assert not host_allowed("xexample.com", ["*.example.com"])
