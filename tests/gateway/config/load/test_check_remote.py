"""Remotes in the configuration: what is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gateway.config.gateway import HeaderConfig, RemoteConfig, SecretConfig
from gateway.config.load.check_remote import (
    POOL_RESERVED_FIELDS,
    extra_body_problems,
    remote_problems,
)
from gateway.config.remote import (
    Feature,
    HistoryConfig,
    MaxTokensField,
    ReasoningField,
    ReasoningRequest,
    RemoteApi,
    SessionHintConfig,
)


def remote(**fields: object) -> RemoteConfig:
    return msgspec.structs.replace(
        RemoteConfig(name="far", remote_class="eu", model="moe", url="https://api.example.com"),
        **fields,
    )


def hint(**fields: object) -> SessionHintConfig:
    return msgspec.structs.replace(SessionHintConfig(secret=SecretConfig(env="HINT")), **fields)


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HINT", "x" * 16)
    monkeypatch.setenv("SHORT", "x" * 15)


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
        (remote(cannot=("temperature+temperature",)), "remotes[0].cannot[0]"),
        (remote(drop=(Feature.STOP,)), "remotes[0].drop[0]"),
        (remote(can=(Feature.THINKING_BUDGET,)), "remotes[0].can[0]"),
        (
            remote(api=RemoteApi.ANTHROPIC, reasoning_request=ReasoningRequest.REASONING),
            "remotes[0].reasoning_request",
        ),
        (
            remote(history=HistoryConfig(reasoning_field=ReasoningField.THINKING)),
            "remotes[0].history.reasoning_field",
        ),
        (
            remote(
                api=RemoteApi.ANTHROPIC,
                history=HistoryConfig(reasoning_field=ReasoningField.REASONING),
            ),
            "remotes[0].history.reasoning_field",
        ),
        (
            remote(api=RemoteApi.ANTHROPIC, history=HistoryConfig(placeholder_signature="skip")),
            "remotes[0].history.placeholder_signature",
        ),
        (
            remote(api=RemoteApi.MOEGATE, url="grpc://a:1", history=HistoryConfig()),
            "remotes[0].history",
        ),
        (remote(session_hint=hint()), "remotes[0].session_hint"),
        (
            remote(session_hint=hint(header="x-session-id", body_field="user")),
            "remotes[0].session_hint",
        ),
        (
            remote(session_hint=hint(header="Authorization")),
            "remotes[0].session_hint.header",
        ),
        (
            remote(
                session_hint=hint(header="X-Session-Id"),
                headers=(HeaderConfig(name="x-session-id", value="1"),),
            ),
            "remotes[0].session_hint.header",
        ),
        (
            remote(session_hint=hint(body_field="messages")),
            "remotes[0].session_hint.body_field",
        ),
        (
            remote(
                session_hint=hint(body_field="metadata.user_id"),
                extra_body_json='{"metadata": {}}',
            ),
            "remotes[0].session_hint.body_field",
        ),
        (
            remote(
                api=RemoteApi.MOEGATE, url="grpc://a:1", session_hint=hint(header="x-session-id")
            ),
            "remotes[0].session_hint.header",
        ),
        (
            remote(api=RemoteApi.MOEGATE, url="grpc://a:1", session_hint=hint(body_field="user")),
            "remotes[0].session_hint.body_field",
        ),
        (
            remote(session_hint=hint(header="x-session-id", secret=SecretConfig(env="SHORT"))),
            "remotes[0].session_hint.secret",
        ),
        (
            remote(
                session_hint=hint(header="x-session-id", secret=SecretConfig(env="MOEGATE_UNSET"))
            ),
            "remotes[0].session_hint.secret.env",
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


@pytest.mark.parametrize(
    ("lack", "fix"),
    [
        ("temprature", "did you mean temperature?"),
        ("temperature+topp", "did you mean top_p?"),
        ("parallel_tools", "did you mean parallel_tool_calls?"),
        ("xyzzy", "use one of tools, "),
    ],
)
def test_a_feature_that_is_written_wrong_gets_the_nearest_one(lack: str, fix: str) -> None:
    [found] = remote_problems("remotes[0]", remote(cannot=(lack,)), Path.cwd())
    assert (found.path, found.value) == ("remotes[0].cannot[0]", f'"{lack}"')
    assert found.fix.startswith(fix)


def test_histories_hints_and_lacks_that_fit_have_no_problems() -> None:
    for made in (
        remote(
            cannot=("images", "temperature+top_p", "json_schema+tools"),
            drop=(Feature.TOP_P, Feature.PENALTIES),
            history=HistoryConfig(reasoning_field=ReasoningField.REASONING_CONTENT),
            session_hint=hint(body_field="prompt_cache_key"),
        ),
        remote(
            api=RemoteApi.ANTHROPIC,
            history=HistoryConfig(reasoning_field=ReasoningField.THINKING),
            session_hint=hint(body_field="metadata.user_id"),
        ),
        remote(api=RemoteApi.MOEGATE, url="grpc://a:1", session_hint=hint(body_field="session_id")),
    ):
        assert problems(made) == []


def test_how_to_reason_is_a_feature_where_the_fields_can_say_it() -> None:
    budget = (Feature.THINKING_BUDGET,)
    assert not problems(remote(can=budget, reasoning_request=ReasoningRequest.CHAT_TEMPLATE))
    assert not problems(remote(can=budget, url="https://openrouter.ai/api"))
    assert problems(remote(can=budget, url="https://api.deepseek.com"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", ""),
        ('{"chat_template_kwargs": {"enable_thinking": false}, "min_tokens": 2}', ""),
        ("[]", "not a JSON object"),
        ('{"stream": false}', "stream comes from each request"),
        ('{"cache_salt": "x"}', "cache_salt comes from each request"),
    ],
)
def test_further_fields_of_a_pool(text: str, words: str) -> None:
    found = [p.message for p in extra_body_problems("pools[0]", text, POOL_RESERVED_FIELDS)]
    assert words in "".join(found)
    assert bool(found) == bool(words)
