"""Remotes in the configuration: what is refused, and what becomes of the rest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import aiohttp
import msgspec
import pytest
from msgspec.structs import replace

from gateway.config.gateway import HeaderConfig, RemoteConfig, SecretConfig
from gateway.config.load.check_remote import remote_problems
from gateway.config.remote import Feature, MaxTokensField, RemoteApi, RemoteLimitsConfig
from gateway.domain.generation import Chat, Generation, Image, Message, Role, Sampling
from gateway.fleet.remotes import features_of, remote_parts
from gateway.upstream.anthropic.http import AnthropicHttpBackend
from gateway.upstream.http.loop_load import Unhurried
from gateway.upstream.openai.body import BodyOptions, Dialect, generation_body
from gateway.upstream.openai.http import OpenAIHttpBackend
from scheduler.contract import PlacementKind


def remote(**fields: object) -> RemoteConfig:
    return msgspec.structs.replace(
        RemoteConfig(name="far", remote_class="eu", model="moe", url="https://api.example.com"),
        **fields,
    )


def problems(made: RemoteConfig) -> list[tuple[str, str]]:
    return [(p.path, p.value) for p in remote_problems("remotes[0]", made, Path.cwd())]


@pytest.mark.parametrize(
    ("made", "path"),
    [
        (remote(headers=(HeaderConfig(name="X-Title"),)), "remotes[0].headers[0]"),
        (
            remote(headers=(HeaderConfig(name="X", value="a", secret=SecretConfig(env="PATH")),)),
            "remotes[0].headers[0]",
        ),
        (
            remote(headers=(HeaderConfig(name="Authorization", value="Bearer x"),)),
            "remotes[0].headers[0].name",
        ),
        (
            remote(headers=(HeaderConfig(name="A", value="1"), HeaderConfig(name="a", value="2"))),
            "remotes[0].headers[1].name",
        ),
        (remote(headers=(HeaderConfig(name="A", value="é"),)), "remotes[0].headers[0].value"),
        (
            remote(headers=(HeaderConfig(name="A", secret=SecretConfig(env="MOEGATE_UNSET")),)),
            "remotes[0].headers[0].secret.env",
        ),
        (remote(extra_body_json="[1]"), "remotes[0].extra_body_json"),
        (remote(extra_body_json='{"model": "x"}'), "remotes[0].extra_body_json"),
        (
            remote(can=(Feature.TOP_K,), cannot=(Feature.TOP_K,)),
            "remotes[0].cannot[0]",
        ),
        (
            remote(api=RemoteApi.ANTHROPIC, max_tokens_field=MaxTokensField.MAX_COMPLETION_TOKENS),
            "remotes[0].max_tokens_field",
        ),
    ],
)
def test_contradictions_are_named(made: RemoteConfig, path: str) -> None:
    assert [found for found, _ in problems(made)] == [path]


def test_a_key_that_was_pasted_as_a_header_is_not_shown() -> None:
    made = remote(headers=(HeaderConfig(name="api-key", value="sk-é" + "x" * 40),))
    assert "xxxxx" not in str(problems(made))


def test_a_good_one_has_no_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOEGATE_HEADER", "secret-value")
    made = remote(
        headers=(
            HeaderConfig(name="X-Title", value="our app"),
            HeaderConfig(name="api-key", secret=SecretConfig(env="MOEGATE_HEADER")),
        ),
        extra_body_json='{"provider": {"zdr": true}}',
    )
    assert problems(made) == []


def generation(**fields: object) -> Generation:
    chat = Chat(messages=(Message(role=Role.USER, parts=("Hello",)),))
    made = Generation(request_id="r", model="moe", input=chat, max_output_tokens=100)
    return replace(made, **fields)


async def test_it_becomes_a_placement_a_client_and_its_limits() -> None:
    made = remote(
        limits=RemoteLimitsConfig(requests_per_minute=60, tokens_per_minute=1000),
        max_concurrency=7,
        fails_with="cloud",
        max_output_tokens=50,
        cannot=(Feature.IMAGES,),
        can=(Feature.TOP_K,),
    )
    async with aiohttp.ClientSession() as session:
        parts = remote_parts(made, Path.cwd(), session, Unhurried())
        spoken = remote_parts(remote(api=RemoteApi.ANTHROPIC), Path.cwd(), session, Unhurried())
    facts = parts.placement
    assert (facts.kind, facts.max_running, facts.fate) == (PlacementKind.REMOTE, 7, "cloud")
    assert facts.send_limits.requests_per_minute == 60
    assert facts.send_limits.tokens_per_minute == 1000
    assert isinstance(parts.backend, OpenAIHttpBackend)
    assert isinstance(spoken.backend, AnthropicHttpBackend)
    lacks: Callable[[Generation], tuple[str, ...]] = parts.unsupported
    assert lacks(generation(max_output_tokens=50)) == ()
    assert lacks(generation()) == ("max_output_tokens",)
    image = Message(role=Role.USER, parts=(Image(url="https://example.com/a.png"),))
    sampling = Sampling(top_k=3, min_p=0.1)
    asked = generation(input=Chat(messages=(image,)), sampling=sampling, max_output_tokens=9)
    assert lacks(asked) == ("sampling.min_p", "chat.messages[0].parts")
    assert spoken.unsupported(generation(choices=2)) == ("choices",)


def test_options_of_an_openai_shaped_body() -> None:
    options = BodyOptions(
        features=features_of(remote(can=(Feature.TOP_K,))),
        max_tokens_field=MaxTokensField.MAX_COMPLETION_TOKENS,
        extra={"provider": msgspec.Raw(b'{"zdr":true}'), "model": msgspec.Raw(b'"no"')},
    )
    made = generation(sampling=Sampling(top_k=3))
    body = json.loads(generation_body(made, "up", Dialect.OPENAI, options=options))
    assert body["model"] == "up"
    assert body["provider"] == {"zdr": True}
    assert body["top_k"] == 3
    assert body["max_completion_tokens"] == 100
    assert "max_tokens" not in body
