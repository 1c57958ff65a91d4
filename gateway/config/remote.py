"""Parts of a remote in the configuration: its API, its limits, its features."""

from __future__ import annotations

import enum
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from gateway.config.values import Name, SecretConfig

Count = Annotated[int, Meta(ge=1, le=1_000_000_000_000)]
PriceRow = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}/[^\s]{1,256}$",
        description="provider/model, such as deepseek/deepseek-chat.",
    ),
]
HeaderName = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$", description="Name of a header."),
]
PemFile = Annotated[str, Meta(min_length=1)]
JsonText = Annotated[
    str, Meta(min_length=2, max_length=65_536, description="A JSON object, in quotes.")
]


class RemoteApi(enum.StrEnum):
    """API of a remote."""

    OPENAI = "openai"
    """Chat completions of OpenAI's shape: OpenRouter, DeepSeek, Moonshot, Together, most others."""
    ANTHROPIC = "anthropic"
    """Messages of Anthropic's shape."""
    MOEGATE = "moegate"
    """moegate.v1 over gRPC: another moegate."""


class Feature(enum.StrEnum):
    """Something that a request may need and that not every server offers."""

    TOOLS = "tools"
    TOOL_CHOICE_NONE = "tool_choice_none"
    TOOL_CHOICE_REQUIRED = "tool_choice_required"
    TOOL_CHOICE_NAMED = "tool_choice_named"
    """A tool choice that names one function."""
    PARALLEL_TOOL_CALLS = "parallel_tool_calls"
    """More than one tool call in an earlier turn."""
    STRICT = "strict"
    """Schemas of tools or of the answer that must be kept exactly."""
    SYSTEM = "system"
    """System messages."""
    LATE_SYSTEM = "late_system"
    """System messages after the first turn."""
    IMAGES = "images"
    JSON_OBJECT = "json_object"
    JSON_SCHEMA = "json_schema"
    NAMES = "names"
    """Names of speakers."""
    CHOICES = "choices"
    """More than one choice."""
    LOGPROBS = "logprobs"
    STOP = "stop"
    TEMPERATURE = "temperature"
    TOP_P = "top_p"
    SEED = "seed"
    PENALTIES = "penalties"
    """Presence and frequency penalties."""
    TOP_K = "top_k"
    MIN_P = "min_p"
    REPETITION_PENALTY = "repetition_penalty"
    IGNORE_EOS = "ignore_eos"
    MIN_TOKENS = "min_tokens"
    LOGIT_BIAS = "logit_bias"
    STOP_TOKEN_IDS = "stop_token_ids"
    REGEX = "regex"
    """An answer that matches a regular expression."""
    TEXT_CHOICE = "text_choice"
    """An answer that is one of several texts."""
    GRAMMAR = "grammar"
    """An answer that a grammar allows."""
    ONE_TOOL_CALL = "one_tool_call"
    """At most one tool call in an answer (`parallel_tool_calls` false)."""
    REASONING_EFFORT = "reasoning_effort"
    """An effort of reasoning; the least and the greatest ones are features of their own."""
    EFFORT_MINIMAL = "effort_minimal"
    EFFORT_XHIGH = "effort_xhigh"
    EFFORT_MAX = "effort_max"
    THINKING = "thinking"
    """Thinking that the request switches on."""
    NO_THINKING = "no_thinking"
    """Thinking that the request switches off."""
    THINKING_BUDGET = "thinking_budget"
    """A bound on the tokens of reasoning."""
    CHAT_TEMPLATE_KWARGS = "chat_template_kwargs"
    """Variables of the chat template."""
    PROMPT = "prompt"
    """Raw prompts, as text."""
    PROMPT_TOKENS = "prompt_tokens"
    """Raw prompts, as token ids."""
    DIMENSIONS = "dimensions"
    """A length of the vectors other than the model's own."""
    TRUNCATION = "truncation"
    """Inputs to embed or score that are cut to a number of tokens."""
    CONTINUATION = "continuation"
    """An answer that continues the last message, which is of the model itself."""


SAMPLING_FEATURES = frozenset(
    {
        *(Feature.TEMPERATURE, Feature.TOP_P, Feature.TOP_K, Feature.MIN_P, Feature.SEED),
        *(Feature.PENALTIES, Feature.REPETITION_PENALTY),
    }
)
"""Features that are sampling parameters. Without them a request can still run."""
TOGETHER = "+"
"""Joins features that a remote does not take together."""
Lack = Annotated[
    str,
    Meta(
        pattern=r"^[a-z_]+(\+[a-z_]+)*$",
        max_length=256,
        description="A feature, or features that are refused together: temperature+top_p.",
    ),
]


class ReasoningField(enum.StrEnum):
    """Where the reasoning text of an earlier turn goes in a request to a remote."""

    NONE = "none"
    """Nowhere."""
    REASONING_CONTENT = "reasoning_content"
    REASONING = "reasoning"
    THINKING = "thinking"
    """A block of thinking without a signature (Anthropic-shaped APIs only)."""


class ReasoningRequest(enum.StrEnum):
    """How an OpenAI-shaped API is told how to reason."""

    REASONING_EFFORT = "reasoning_effort"
    """`reasoning_effort`: an effort, or none (OpenAI and most others)."""
    REASONING = "reasoning"
    """`reasoning` with `effort`, `enabled` or `max_tokens` (OpenRouter)."""
    THINKING = "thinking"
    """`thinking` of type `enabled` or `disabled` (Moonshot's K2, Z.ai)."""
    THINKING_EFFORT = "thinking_effort"
    """The same, and `reasoning_effort` (DeepSeek)."""
    CHAT_TEMPLATE = "chat_template"
    """`reasoning_effort`, `chat_template_kwargs` and `thinking_token_budget` (vLLM)."""


EFFORT_FEATURES = frozenset(
    {
        *(Feature.REASONING_EFFORT, Feature.EFFORT_MINIMAL),
        *(Feature.EFFORT_XHIGH, Feature.EFFORT_MAX),
    }
)
"""Features that say how hard to reason."""
REASONING_FEATURES = EFFORT_FEATURES | {
    *(Feature.THINKING, Feature.NO_THINKING, Feature.THINKING_BUDGET)
}
"""Features that say how to reason."""
REASONING_EXPRESSED = {
    ReasoningRequest.REASONING_EFFORT: EFFORT_FEATURES | {Feature.NO_THINKING},
    ReasoningRequest.REASONING: REASONING_FEATURES,
    ReasoningRequest.THINKING: frozenset({Feature.THINKING, Feature.NO_THINKING}),
    ReasoningRequest.THINKING_EFFORT: EFFORT_FEATURES | {Feature.THINKING, Feature.NO_THINKING},
    ReasoningRequest.CHAT_TEMPLATE: REASONING_FEATURES,
}
"""Of these, what the fields of each kind of API can say."""
_REASONING_HOSTS = {
    "openrouter.ai": ReasoningRequest.REASONING,
    "api.deepseek.com": ReasoningRequest.THINKING_EFFORT,
    "api.moonshot.ai": ReasoningRequest.THINKING,
    "api.moonshot.cn": ReasoningRequest.THINKING,
    "api.z.ai": ReasoningRequest.THINKING,
    "open.bigmodel.cn": ReasoningRequest.THINKING,
}
"""What is known of hosts; the configuration of a remote replaces it."""


def usual_reasoning_request(url: str) -> ReasoningRequest:
    """Fields that the host of an OpenAI-shaped remote reads, as far as it is known here."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        host = ""  # reported with all addresses
    return _REASONING_HOSTS.get(host, ReasoningRequest.REASONING_EFFORT)


class ReasoningTurns(enum.StrEnum):
    """Earlier turns of the model that get the reasoning field."""

    KNOWN = "known"
    """Those whose reasoning text the client sent."""
    TOOL_CALLS = "tool_calls"
    """Those with tool calls; the text is empty where the client sent none."""
    ALWAYS = "always"
    """All; the text is empty where the client sent none."""


class MaxTokensField(enum.StrEnum):
    """Name of the output limit on the wire of an OpenAI-shaped API."""

    MAX_TOKENS = "max_tokens"
    MAX_COMPLETION_TOKENS = "max_completion_tokens"


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every part: frozen, unknown fields refused."""


class RemoteLimitsConfig(_Part, frozen=True, kw_only=True):
    """Limits of the provider on what the gateway sends; absent: not known. The number of concurrent
    requests is learnt from its refusals as well, and a pause that it asks for is kept."""

    requests_per_minute: Count | None = None
    """Requests per minute."""
    tokens_per_minute: Count | None = None
    """Tokens per minute; each request counts its prompt and its output limit, until it ends."""


class HistoryConfig(_Part, frozen=True, kw_only=True):
    """What a remote wants in earlier turns of the model. Signatures that it made itself always go
    back to it; those of other servers never do."""

    reasoning_field: ReasoningField = ReasoningField.NONE
    """Where the reasoning text goes."""
    reasoning_turns: ReasoningTurns = ReasoningTurns.TOOL_CALLS
    """Turns that get it."""
    placeholder_signature: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    """Thought signature of tool calls that another server made (Gemini:
    skip_thought_signature_validator); absent: none is sent."""


class SessionHintConfig(_Part, frozen=True, kw_only=True):
    """A hint of the session, by which a remote finds its prompt cache: 32 hex digits of an
    HMAC-SHA256 of tenant and session. Exactly one of `header` and `body_field`."""

    header: HeaderName | None = None
    """Header that takes it, such as x-session-id or x-session-affinity."""
    body_field: (
        Annotated[
            str,
            Meta(
                pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}(\.[A-Za-z_][A-Za-z0-9_]{0,63})?$",
                description="A field of the body: prompt_cache_key, user, metadata.user_id.",
            ),
        ]
        | None
    ) = None
    """Field of the body that takes it, such as prompt_cache_key; of another moegate: session_id."""
    secret: SecretConfig
    """Key of the HMAC. All gateways before a remote need the same one."""


class OtherGatewayConfig(_Part, frozen=True, kw_only=True):
    """How another moegate is called. Files are PEM, relative to the folder of the configuration."""

    ca: PemFile | None = None
    """Authority that signs its certificate; absent: those of the system."""
    cert: PemFile | None = None
    """Certificate chain shown to it, where it asks for one (mTLS)."""
    key: PemFile | None = None
    """Private key of `cert`, not encrypted."""
    local_only: bool = False
    """Whether it must keep every request on its self-hosted servers."""
    shared_classes: tuple[Name, ...] = ()
    """Classes of remotes that mean the same in both gateways. This gateway sends those that
    the caller allows. If it allows none of them, the other gateway must keep the request on its
    self-hosted servers. Empty: its key decides alone."""
    tell_slo: bool = True
    """Whether this gateway sends it the class of service and the priority of the request;
    its key must allow the classes. False: its key decides on them."""
    max_priority: Annotated[int, Meta(ge=0, le=10)] = 0
    """`max_priority` of this gateway's key there: a higher priority is sent as this one."""
    max_hops: Annotated[int, Meta(ge=1, le=8)] = 1
    """Most gateways that a request may have passed, this one included, to be sent there. This ends
    a circle of gateways that overflow to each other."""


class HedgingConfig(_Part, frozen=True, kw_only=True):
    """A second attempt on another placement while the first one has brought no token. Off by
    default, because both attempts are paid for."""

    after_s: Annotated[float, Meta(gt=0, le=3600)]
    """Time to the first token after which the second attempt starts."""
    share: Annotated[float, Meta(gt=0, le=1)] = 0.02
    """Most second attempts, as a share of all requests."""


class FailuresConfig(_Part, frozen=True, kw_only=True):
    """Retries, continuations and hedging when an upstream fails."""

    retry_share: Annotated[float, Meta(ge=0, le=1)] = 0.2
    """Retries on other servers, as a share of all requests in the long run; those that succeed
    do not count."""
    continue_cut_answers: bool = False
    """Whether an answer of plain text that breaks off is continued on a server that can do so
    (feature `continuation`); otherwise its client gets an error that says it is incomplete."""
    hedging: HedgingConfig | None = None
    """A second attempt for a request whose first one is slow; absent: none."""
