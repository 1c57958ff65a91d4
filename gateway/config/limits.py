"""Bounds in the configuration: of the gateway, and of one key."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.config.values import Count, Seconds

ImageHost = Annotated[
    str,
    Meta(
        pattern=r"^(\*\.)?[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?(:[0-9]{1,5})?$",
        description="Host in lower case, with *. before a domain for all hosts below it, and with"
        " a port other than 443.",
    ),
]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every part: frozen, unknown fields refused."""


class ElementLimitsConfig(_Part, frozen=True, kw_only=True):
    """Bounds on what one request message may hold. They are checked on the received bytes, before
    any of it becomes an object, because many small elements cost far more than their bytes."""

    messages: Count = 8192
    """Most messages of a chat."""
    parts: Count = 16_384
    """Most content parts, in all messages together."""
    tools: Count = 1024
    """Most tools."""
    tool_calls: Count = 16_384
    """Most tool calls, in all messages together."""
    signatures: Count = 16_384
    """Most signatures of reasoning, in all messages and tool calls together."""
    token_ids: Count = 1_048_576
    """Most token ids of a prompt."""
    inputs: Count = 2048
    """Most inputs to embed, or documents to score."""
    values: Count = 1024
    """Most values of all other repeated fields and maps together, such as stop texts, stop
    token ids, logit biases, labels and remote classes."""
    text_bytes: Count = 10 * 1024 * 1024
    """Most bytes of all texts together; images and signatures count nothing."""
    schema_bytes: Count = 256 * 1024
    """Most bytes of one JSON schema, and of the variables of a chat template."""
    regex_bytes: Count = 8192
    """Most bytes of a regular expression for the answer."""
    grammar_bytes: Count = 64 * 1024
    """Most bytes of a grammar for the answer."""
    arguments_bytes: Count = 4 * 1024 * 1024
    """Most bytes of the arguments of one tool call."""
    json_depth: Annotated[int, Meta(ge=1, le=512)] = 128
    """Deepest nesting of a JSON schema and of the arguments of a tool call."""
    nesting: Annotated[int, Meta(ge=8, le=64)] = 32
    """Deepest nesting of messages inside the request message."""
    unknown_fields: Count = 16_384
    """Most fields that this version does not know, as newer clients send them."""
    fields: Count = 262_144
    """Most fields of all kinds together; a field that is given several times counts each time."""


class LimitsConfig(_Part, frozen=True, kw_only=True):
    """Bounds of the gateway."""

    queue_requests: Count = 1024
    """Most requests in the queue of one model."""
    queue_bytes: Count = 256 * 1024 * 1024
    """Most bytes of requests in the queue of one model."""
    queue_tenant_share: Annotated[float, Meta(gt=0, le=1)] = 0.5
    """Part of the queue of one model, in requests and in bytes, that one tenant may fill. A tenant
    that is the only one configured may fill the queue."""
    message_bytes: Annotated[int, Meta(ge=65_536, le=1 << 30)] = 16 * 1024 * 1024
    """Largest request that any key may send, in bytes, inflated."""
    key_message_bytes: Annotated[int, Meta(ge=65_536, le=1 << 30)] = 4 * 1024 * 1024
    """Largest request of a key that sets no `message_bytes` of its own, never above
    `limits.message_bytes`. Give keys that send images a larger limit of their own."""
    http_body_bytes: Annotated[int, Meta(ge=65_536, le=1 << 30)] = 32 * 1024 * 1024
    """Largest body of an HTTP request of a key that sets no `message_bytes` of its own, in bytes,
    inflated: agents send long conversations with images as base64."""
    metadata_bytes: Annotated[int, Meta(ge=1024, le=32_768)] = 16_384
    """Most bytes of metadata of one RPC, or of the headers of one HTTP request: names, values, and
    32 for each field, as HTTP/2 counts."""
    request_s: Seconds = 60.0
    """How long a request may take to arrive after its metadata."""
    rpcs: Count = 8192
    """Most RPCs in progress in one process, those that wait in a queue included."""
    tenant_rpcs: Count = 4096
    """Most RPCs in progress of one tenant, in all front processes together."""
    keyless_rpcs: Count = 1024
    """Most RPCs in progress in one process that need no key: health watches and reflection."""
    elements: ElementLimitsConfig = ElementLimitsConfig()
    """Bounds on what one request message may hold."""
    unread_stream_bytes: Count = 4 * 1024 * 1024
    """Most output of one stream that is kept while its client does not read. Beyond it the server
    that generates has to wait."""
    unread_tenant_bytes: Count = 64 * 1024 * 1024
    """The same, for all streams of one tenant."""
    unread_bytes: Count = 256 * 1024 * 1024
    """The same, for all streams."""
    stored_bytes: Count = 128 * 1024 * 1024
    """Most bytes of Responses that are kept for `previous_response_id`, in the memory of one
    gateway and for an hour at most; the oldest give way."""
    stored_tenant_bytes: Count = 32 * 1024 * 1024
    """The same, of one tenant."""
    default_max_output_tokens: Count = 4096
    """Output limit of a request that sets none."""
    max_output_tokens: Count = 1_048_576
    """Largest output limit of a request, summed over its choices."""
    default_deadline_s: Seconds = 600.0
    """Deadline of a request that sets none."""
    max_deadline_s: Seconds = 3600.0
    """Longest time of a request; a later deadline of the client is cut to it."""
    idempotency_keys: Count = 100_000
    """Most idempotency keys that are remembered after their requests, 300 bytes each. Beyond, the
    tenant with most of them loses its oldest one."""
    image_url_hosts: tuple[ImageHost, ...] = ()
    """Hosts of which the servers that generate may fetch images, such as images.example.com,
    *.example.com or images.example.com:8443; empty: images come as data only. A listed host can
    redirect them anywhere that they reach, so list only hosts that you control."""
    image_bytes: Count = 10 * 1024 * 1024
    """Most bytes of one image that comes as data."""
    images: Count = 100
    """Most images of one request."""
    attempts: Annotated[int, Meta(ge=1, le=10)] = 3
    """Most placements that are tried for one request."""


class KeyLimitsConfig(_Part, frozen=True, kw_only=True):
    """Limits of one key; absent: none."""

    requests_per_minute: Count | None = None
    """RPCs of all kinds per minute, malformed ones too."""
    tokens_per_minute: Count | None = None
    """Prompt and output tokens per minute."""
    concurrent_requests: Count | None = None
    """RPCs of all kinds at once: waiting and running generations, watches and exports too."""
    max_output_tokens: Count | None = None
    """Largest output limit of a request, summed over its choices; absent: that of the gateway."""
    message_bytes: Annotated[int, Meta(ge=65_536, le=1 << 30)] | None = None
    """Largest request in bytes, inflated, at most `limits.message_bytes`; absent:
    `limits.key_message_bytes`, or `limits.http_body_bytes` on the HTTP port."""
