"""Checks between the fields of a remote."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from gateway.config.gateway import RemoteConfig
from gateway.config.load.check_gateway import gateway_problems, scheme_problems
from gateway.config.problems import ConfigError, Problem, problem
from gateway.config.remote import MaxTokensField, RemoteApi
from gateway.config.resolve.secrets import resolve

RESERVED_HEADERS = frozenset(
    {
        *("host", "content-length", "content-type", "transfer-encoding", "connection"),
        *("accept", "accept-encoding", "authorization", "x-api-key", "x-request-id"),
    }
)
"""Headers that the gateway sets itself; a key goes into `api_key`."""
RESERVED_FIELDS = frozenset(
    {
        *("model", "messages", "prompt", "system", "stream", "stream_options", "n", "stop"),
        *("max_tokens", "max_completion_tokens", "stop_sequences", "tools", "tool_choice"),
        *("response_format", "logprobs", "top_logprobs", "temperature", "top_p", "seed"),
    }
)
"""Fields of a body that come from requests."""


def remote_problems(path: str, remote: RemoteConfig, base_dir: Path) -> Iterator[Problem]:
    """Every problem of one remote, except those that pools can have, too."""
    yield from scheme_problems(path, remote)
    if remote.api is RemoteApi.MOEGATE:
        yield from gateway_problems(path, remote, base_dir)
    yield from _headers(path, remote, base_dir)
    yield from _extra_body(f"{path}.extra_body_json", remote.extra_body_json)
    for i, feature in enumerate(remote.cannot):
        if feature in remote.can:
            message = f"{path}.can has it too"
            yield problem(f"{path}.cannot[{i}]", feature.value, message, "remove it from one")
    if (
        remote.api is RemoteApi.ANTHROPIC
        and remote.max_tokens_field is not MaxTokensField.MAX_TOKENS
    ):
        message = "the Messages API has one name for it, max_tokens"
        field = remote.max_tokens_field.value
        yield problem(f"{path}.max_tokens_field", field, message, "remove it")


def _headers(path: str, remote: RemoteConfig, base_dir: Path) -> Iterator[Problem]:
    seen: dict[str, int] = {}
    for i, header in enumerate(remote.headers):
        where, name = f"{path}.headers[{i}]", header.name.lower()
        if name in RESERVED_HEADERS:
            fix = "remove it; a key belongs into api_key"
            yield problem(f"{where}.name", header.name, "the gateway sets it itself", fix)
        elif name in seen:
            message = f"the same as {path}.headers[{seen[name]}].name"
            yield problem(f"{where}.name", header.name, message, "give each header once")
        seen.setdefault(name, i)
        if (header.value is None) == (header.secret is None):
            found = "neither" if header.value is None else "both"
            message = "exactly one of value and secret is needed"
            yield Problem(path=where, value=found, message=message, fix="give one of them")
        if header.value is not None and not header.value.isascii():
            message = "characters that no HTTP header may hold"
            yield problem(f"{where}.value", header.value, message, "keep to ASCII")
        try:
            resolve(header.secret, base_dir)
        except ConfigError as error:
            yield from (each.under(f"{where}.secret") for each in error.problems)


def _extra_body(path: str, text: str | None) -> Iterator[Problem]:
    if text is None:
        return
    try:
        fields = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError):
        yield problem(path, text, "not a JSON object", """write it as '{"name": value}'""")
        return
    for name in sorted(RESERVED_FIELDS & fields.keys()):
        message = f"{name} comes from each request"
        yield problem(path, text, message, f"remove {name}")
