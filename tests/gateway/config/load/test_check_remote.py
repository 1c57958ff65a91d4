"""Remotes in the configuration: what is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gateway.config.gateway import HeaderConfig, RemoteConfig, SecretConfig
from gateway.config.load.check_remote import remote_problems
from gateway.config.remote import Feature, MaxTokensField, RemoteApi


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
