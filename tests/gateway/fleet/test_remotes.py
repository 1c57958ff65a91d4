"""Remotes of the configuration: their placements, their clients and what these cannot honour."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from gateway.config.gateway import (
    GatewayConfig,
    HeaderConfig,
    RemoteConfig,
    SecretConfig,
    TimeoutsConfig,
)
from gateway.config.problems import ConfigError
from gateway.config.remote import (
    Feature,
    HistoryConfig,
    MaxTokensField,
    OtherGatewayConfig,
    PriceRow,
    ReasoningField,
    ReasoningRequest,
    RemoteApi,
    RemoteLimitsConfig,
)
from gateway.domain.generation import Chat, Generation, Image, Message, Role, Sampling
from gateway.domain.slices import finish
from gateway.fleet.placements import placements_of
from gateway.fleet.remotes import RemoteClient, remote_client, remote_connection
from gateway.upstream.anthropic.client import AnthropicClient
from gateway.upstream.http.connections import HttpSession
from gateway.upstream.http.loop_load import Unhurried
from gateway.upstream.moegate.client import MoegateClient
from gateway.upstream.openai.body import OPENAI_FEATURES, BodyOptions, generation_body
from gateway.upstream.openai.client import OpenAIClient
from scheduler.contract import PlacementKind

HERE = Path.cwd()


def remote(**fields: object) -> RemoteConfig:
    return msgspec.structs.replace(
        RemoteConfig(name="far", remote_class="eu", model="moe", url="https://api.example.com"),
        **fields,
    )


def generation(**fields: object) -> Generation:
    chat = Chat(messages=(Message(role=Role.USER, parts=("Hello",)),))
    made = Generation(request_id="r", model="moe", input=chat, max_output_tokens=100)
    return replace(made, **fields)


async def client_of(made: RemoteConfig) -> RemoteClient:
    async with HttpSession() as session:
        return remote_client(remote_connection(made, HERE), session, Unhurried())


def test_it_becomes_a_placement_with_its_limits() -> None:
    made = remote(
        limits=RemoteLimitsConfig(requests_per_minute=60, tokens_per_minute=1000),
        max_concurrency=7,
        fails_with="cloud",
    )
    [facts] = placements_of(GatewayConfig(remotes=(made,)), HERE)
    assert (facts.kind, facts.max_running, facts.failure_domain) == (
        PlacementKind.REMOTE,
        7,
        "cloud",
    )
    assert facts.send_limits.requests_per_minute == 60
    assert facts.send_limits.tokens_per_minute == 1000


async def test_its_api_decides_on_its_client() -> None:
    clients = [
        await client_of(remote(api=RemoteApi.OPENAI)),
        await client_of(remote(api=RemoteApi.ANTHROPIC)),
        await client_of(remote(api=RemoteApi.MOEGATE, url="grpc://gateway:50051")),
    ]
    kinds = [OpenAIClient, AnthropicClient, MoegateClient]
    assert [type(client) for client in clients] == kinds


async def test_what_it_cannot_honour_is_named() -> None:
    client = await client_of(remote(cannot=(Feature.IMAGES,), can=(Feature.TOP_K,)))
    assert client.features == (OPENAI_FEATURES | {Feature.TOP_K}) - {Feature.IMAGES}
    image = Message(role=Role.USER, parts=(Image(url="https://example.com/a.png"),))
    sampling = Sampling(top_k=3, min_p=0.1)
    asked = generation(input=Chat(messages=(image,)), sampling=sampling, max_output_tokens=9)
    assert client.unsupported_fields(asked) == ("sampling.min_p", "chat.messages[0].parts")
    spoken = await client_of(remote(api=RemoteApi.ANTHROPIC))
    assert spoken.unsupported_fields(generation(choices=2)) == ("choices",)


async def test_a_circle_of_gateways_ends() -> None:
    two = OtherGatewayConfig(max_hops=2)
    client = await client_of(remote(api=RemoteApi.MOEGATE, url="grpc://g:1", gateway=two))
    assert client.unsupported_fields(generation(hops=1)) == ()
    assert client.unsupported_fields(generation(hops=2)) == ("metadata.moegate-hops",)


def test_options_of_an_openai_shaped_body() -> None:
    options = BodyOptions(
        features=OPENAI_FEATURES | {Feature.TOP_K},
        max_tokens_field=MaxTokensField.MAX_COMPLETION_TOKENS,
        extra={"provider": msgspec.Raw(b'{"zdr":true}'), "model": msgspec.Raw(b'"no"')},
    )
    made = generation(sampling=Sampling(top_k=3))
    body = json.loads(finish(generation_body(made, "up", options)))
    assert body["model"] == "up"
    assert body["provider"] == {"zdr": True}
    assert body["top_k"] == 3
    assert body["max_completion_tokens"] == 100
    assert "max_tokens" not in body


def test_a_connection_is_equal_while_what_is_sent_stays() -> None:
    before = remote_connection(remote(), HERE)
    price: PriceRow = "deepseek/deepseek-chat"
    same = remote(price_row=price, max_concurrency=3, fails_with="x", context_tokens=9)
    assert remote_connection(same, HERE) == before
    for changed in (
        remote(url="https://other.example.com"),
        remote(upstream_model="other"),
        remote(timeouts=TimeoutsConfig(connect_s=1.0)),
        remote(headers=(HeaderConfig(name="X-Title", value="us"),)),
        remote(can=(Feature.TOP_K,)),
        remote(extra_body_json='{"a": 1}'),
        remote(cannot=("temperature+top_p",)),
        remote(drop=(Feature.TOP_P,)),
        remote(reasoning_request=ReasoningRequest.REASONING),
        remote(history=HistoryConfig(reasoning_field=ReasoningField.REASONING)),
    ):
        assert remote_connection(changed, HERE) != before


def test_a_secret_that_was_renewed_makes_another_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = remote(api_key=SecretConfig(file="key"))
    (tmp_path / "key").write_text("sk-one-secret")
    before = remote_connection(made, tmp_path)
    (tmp_path / "key").write_text("sk-two-secret")
    after = remote_connection(made, tmp_path)
    assert before != after
    assert "sk-two-secret" not in repr(after)
    (tmp_path / "key").unlink()
    with pytest.raises(ConfigError):
        remote_connection(made, tmp_path)
