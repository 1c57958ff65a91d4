"""Checks between the fields of a remote."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from gateway.config.gateway import RemoteConfig
from gateway.config.load.check_gateway import gateway_problems, scheme_problems
from gateway.config.problems import ConfigError, Problem, nearest, problem
from gateway.config.remote import (
    REASONING_EXPRESSED,
    REASONING_FEATURES,
    SAMPLING_FEATURES,
    TOGETHER,
    Feature,
    MaxTokensField,
    ReasoningField,
    RemoteApi,
    usual_reasoning_request,
)
from gateway.config.resolve.secrets import resolve

RESERVED_HEADERS = frozenset(
    {
        *("host", "content-length", "content-type", "transfer-encoding", "connection"),
        *("accept", "accept-encoding", "authorization", "x-api-key", "x-request-id"),
    }
)
"""Headers that the gateway sets itself; a key goes into `api_key`."""
MIN_SECRET_CHARACTERS = 16
"""Least length of the secret of session hints."""
RESERVED_FIELDS = frozenset(
    {
        *("model", "messages", "prompt", "system", "stream", "stream_options", "n", "stop"),
        *("max_tokens", "max_completion_tokens", "stop_sequences", "tools", "tool_choice"),
        *("response_format", "logprobs", "top_logprobs", "temperature", "top_p", "seed"),
        *("input", "encoding_format", "dimensions", "query", "documents", "top_n"),
        "return_documents",
    }
)
"""Fields of a body that come from requests."""
POOL_RESERVED_FIELDS = RESERVED_FIELDS | {
    *("cache_salt", "priority", "stream_interval", "request_id", "data_parallel_rank"),
    *("continue_final_message", "add_generation_prompt", "return_token_ids", "echo", "best_of"),
    *("use_beam_search", "text_1", "text_2", "queries", "truncate_prompt_tokens", "embed_dtype"),
    "endianness",
}
"""The same of a self-hosted server, and what the gateway decides or cannot read."""


def remote_problems(path: str, remote: RemoteConfig, base_dir: Path) -> Iterator[Problem]:
    """Every problem of one remote, except those that pools can have, too."""
    yield from scheme_problems(path, remote)
    if remote.api is RemoteApi.MOEGATE:
        yield from gateway_problems(path, remote, base_dir)
    yield from _headers(path, remote, base_dir)
    yield from extra_body_problems(
        f"{path}.extra_body_json", remote.extra_body_json, RESERVED_FIELDS
    )
    yield from _batch_body(f"{path}.batch_body_json", remote)
    yield from _features(path, remote)
    yield from _reasoning_request(path, remote)
    yield from _history(f"{path}.history", remote)
    yield from _session_hint(f"{path}.session_hint", remote, base_dir)
    if (
        remote.api is RemoteApi.ANTHROPIC
        and remote.max_tokens_field is not MaxTokensField.MAX_TOKENS
    ):
        message = "the Messages API has one name for it, max_tokens"
        field = remote.max_tokens_field.value
        yield problem(f"{path}.max_tokens_field", field, message, "remove it")


def _features(path: str, remote: RemoteConfig) -> Iterator[Problem]:
    known = [feature.value for feature in Feature]
    for i, lack in enumerate(remote.cannot):
        where, names = f"{path}.cannot[{i}]", lack.split(TOGETHER)
        for name in names:
            if name not in known:
                guess = nearest(name, known)
                fix = f"did you mean {guess}?" if guess else f"use one of {', '.join(known)}"
                yield problem(where, lack, f"{name} is no feature", fix)
        if len(set(names)) != len(names):
            yield problem(where, lack, "one feature twice", "give each once")
        if lack in remote.can:
            yield problem(where, lack, f"{path}.can has it too", "remove it from one")
    for i, feature in enumerate(remote.drop):
        if feature not in SAMPLING_FEATURES:
            may = ", ".join(feature.value for feature in Feature if feature in SAMPLING_FEATURES)
            message = "without it the answer would be another one"
            yield problem(f"{path}.drop[{i}]", feature.value, message, f"use one of {may}")


def _reasoning_request(path: str, remote: RemoteConfig) -> Iterator[Problem]:
    """Features of reasoning that the fields of the API cannot say."""
    request = remote.reasoning_request
    if remote.api is not RemoteApi.OPENAI:
        if request is not None:
            message = "only OpenAI-shaped APIs differ in it"
            yield problem(f"{path}.reasoning_request", request.value, message, "remove it")
        return
    if request is None:
        request = usual_reasoning_request(remote.url)
    for i, feature in enumerate(remote.can):
        if feature in REASONING_FEATURES - REASONING_EXPRESSED[request]:
            message = f"reasoning_request {request.value} cannot say it"
            fix = "set reasoning_request to what the remote reads, or remove it"
            yield problem(f"{path}.can[{i}]", feature.value, message, fix)


def _history(path: str, remote: RemoteConfig) -> Iterator[Problem]:
    history = remote.history
    if history is None:
        return
    field = history.reasoning_field
    match remote.api:
        case RemoteApi.MOEGATE:
            message = "another moegate gets the whole history"
            yield Problem(path=path, value="a mapping", message=message, fix="remove it")
        case RemoteApi.ANTHROPIC:
            if field not in (ReasoningField.NONE, ReasoningField.THINKING):
                message = "the Messages API has no such field"
                yield problem(f"{path}.reasoning_field", field.value, message, "use thinking")
            if history.placeholder_signature is not None:
                message = "only Gemini's OpenAI-shaped API knows one"
                value = history.placeholder_signature
                yield problem(f"{path}.placeholder_signature", value, message, "remove it")
        case RemoteApi.OPENAI:
            if field is ReasoningField.THINKING:
                message = "only Anthropic-shaped APIs have blocks of thinking"
                fix = "use reasoning_content or reasoning"
                yield problem(f"{path}.reasoning_field", field.value, message, fix)


def _session_hint(path: str, remote: RemoteConfig, base_dir: Path) -> Iterator[Problem]:
    hint = remote.session_hint
    if hint is None:
        return
    if (hint.header is None) == (hint.body_field is None):
        found = "neither" if hint.header is None else "both"
        message = "exactly one of header and body_field is needed"
        yield Problem(path=path, value=found, message=message, fix="give one of them")
    if (header := hint.header) is not None:
        if remote.api is RemoteApi.MOEGATE:
            message = "another moegate reads it from the request"
            yield problem(f"{path}.header", header, message, "use body_field: session_id")
        elif header.lower() in RESERVED_HEADERS:
            message = "the gateway sets it itself"
            yield problem(f"{path}.header", header, message, "use another one")
        elif header.lower() in {each.name.lower() for each in remote.headers}:
            yield problem(f"{path}.header", header, "headers has it too", "remove it from one")
    if (field := hint.body_field) is not None:
        yield from _hint_field(f"{path}.body_field", field, remote)
    try:
        size = len(resolve(hint.secret, base_dir) or "")
        if size < MIN_SECRET_CHARACTERS:
            found = f"{size} characters"
            message = "so short that sessions could be guessed from their hints"
            fix = f"give at least {MIN_SECRET_CHARACTERS} random characters"
            yield Problem(path=f"{path}.secret", value=found, message=message, fix=fix)
    except ConfigError as error:
        yield from (each.under(f"{path}.secret") for each in error.problems)


def _batch_body(path: str, remote: RemoteConfig) -> Iterator[Problem]:
    yield from extra_body_problems(path, remote.batch_body_json, RESERVED_FIELDS)
    if remote.batch_body_json is not None and remote.api is not RemoteApi.OPENAI:
        message = f"api {remote.api.value} has no cheaper tier for single requests"
        yield problem(path, remote.batch_body_json, message, "remove it")


def _hint_field(path: str, field: str, remote: RemoteConfig) -> Iterator[Problem]:
    if remote.api is RemoteApi.MOEGATE:
        if field != "session_id":
            message = "another moegate reads session_id"
            yield problem(path, field, message, "use session_id")
        return
    name = field.partition(".")[0]
    if name in RESERVED_FIELDS:
        yield problem(path, field, f"{name} comes from each request", "use another field")
    try:
        extra = msgspec.json.decode(remote.extra_body_json or "{}", type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError):
        return
    if name in extra:
        yield problem(path, field, "extra_body_json has it too", "remove it from one")


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


def extra_body_problems(path: str, text: str | None, reserved: frozenset[str]) -> Iterator[Problem]:
    """Problems of fields that every body gets. `reserved`: names that the gateway sets itself."""
    if text is None:
        return
    try:
        fields = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError):
        yield problem(path, text, "not a JSON object", """write it as '{"name": value}'""")
        return
    for name in sorted(reserved & fields.keys()):
        message = f"{name} comes from each request"
        yield problem(path, text, message, f"remove {name}")
