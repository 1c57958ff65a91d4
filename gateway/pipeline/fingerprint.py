"""What makes a request recognisable when it is sent again, for the scheduler's search for faults.

A fingerprint covers everything that an engine is asked: a client's retry has the same one, under
whatever request id. Only hashes leave this module.
"""

from __future__ import annotations

from hashlib import blake2b

import msgspec
from msgspec import structs

from gateway.domain.generation import (
    Chat,
    EngineHints,
    Generation,
    Image,
    NamedTool,
    ToolMode,
)
from gateway.domain.pooling import EmbeddingInput, PoolingInput, ScoringInput

_NO_HINTS = EngineHints()
_encoder = msgspec.msgpack.Encoder(order="deterministic")


def fingerprint(generation: Generation, prompt_digest: bytes) -> int:
    """Hash of the prompt and of all parameters, never 0. `prompt_digest`: hash of the prompt."""
    parameters: object = structs.replace(
        generation,
        request_id="",
        input="",
        hints=_NO_HINTS,
        session=None,
        hops=0,
        remote_classes=frozenset(),
        slo_class=None,
        priority=0,
    )
    prompt = generation.input
    if isinstance(prompt, Chat):
        asked: tuple[object, ...] = (prompt.tool_choice, prompt.json_object, prompt.json_schema)
        asked += (prompt.constraint, prompt.parallel_tool_calls)
        asked += (prompt.reasoning, prompt.template_kwargs_json)
        parameters = (parameters, asked)
    elif isinstance(prompt, PoolingInput):
        dimensions = prompt.dimensions if isinstance(prompt, EmbeddingInput) else None
        parameters = (parameters, type(prompt).__name__, dimensions, prompt.truncate_tokens)
    return _hash(prompt_digest + _encoder.encode(parameters))


def constraint(generation: Generation) -> int:
    """Hash of what the output must follow: a JSON schema, a regex, a list of texts, a grammar, or
    the schemas of tools that must be called. 0: nothing."""
    prompt = generation.input
    if not isinstance(prompt, Chat):
        return 0
    if prompt.json_schema is not None:
        return _hash(prompt.json_schema.schema_json.encode())
    if prompt.constraint is not None:
        return _hash(_encoder.encode(prompt.constraint))
    forced = prompt.tool_choice is ToolMode.REQUIRED or isinstance(prompt.tool_choice, NamedTool)
    schemas = [tool.parameters_json_schema for tool in prompt.tools if forced or tool.strict]
    return _hash("\0".join(schemas).encode()) if schemas else 0


def features(generation: Generation) -> str:
    """Names of the features that the request uses and that a server may lack, joined by "+"."""
    prompt = generation.input
    names = []
    if isinstance(prompt, Chat):
        names.append("chat")
        if prompt.tools:
            names.append("tools")
        if prompt.json_schema is not None:
            names.append("json_schema")
        elif prompt.json_object:
            names.append("json_object")
        elif prompt.constraint is not None:
            names.append("constraint")
        if prompt.reasoning is not None:
            names.append("reasoning")
        if any(isinstance(part, Image) for m in prompt.messages for part in m.parts):
            names.append("images")
    elif isinstance(prompt, PoolingInput):
        names.append("score" if isinstance(prompt, ScoringInput) else "embed")
        if isinstance(prompt, EmbeddingInput) and prompt.dimensions is not None:
            names.append("dimensions")
        if prompt.truncate_tokens is not None:
            names.append("truncation")
    else:
        names.append("prompt" if isinstance(prompt, str) else "token_ids")
    if generation.logprobs is not None:
        names.append("logprobs")
    return "+".join(names)


def _hash(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big") or 1
