"""A generation in the gateway's own terms: between the proto of a client and the JSON of an engine.

Made by `requests.py`, sent by a backend, which answers with `Chunk`s. Plain frozen values: msgspec
makes one in a tenth of a frozen dataclass's time, and some are made for every token.
"""

from __future__ import annotations

import enum

import msgspec

from scheduler.contract import SloClass, Usage

MAX_ID_CHARACTERS = 200
"""Of an upstream's id for its answer; the rest is cut."""


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """A picture: its bytes with a media type, or an https address."""

    data: bytes = b""
    media_type: str = ""
    url: str = ""


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call of a tool, or the next piece of one in a stream (joined by `index`)."""

    index: int
    id: str = ""
    name: str = ""
    arguments_json: str = ""


class Role(enum.StrEnum):
    """Who speaks."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One turn. `parts` holds texts and pictures in order."""

    role: Role
    parts: tuple[str | Image, ...]
    name: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    reasoning_text: str = ""


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A function that the model may call; the schema is JSON text, checked."""

    name: str
    description: str
    parameters_json_schema: str
    strict: bool = False


class JsonSchema(msgspec.Struct, frozen=True, kw_only=True):
    """Shape of the answer; the schema is JSON text, checked."""

    name: str
    schema_json: str
    strict: bool


class ToolMode(enum.StrEnum):
    """Rule for tool calls."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"


class NamedTool(msgspec.Struct, frozen=True, kw_only=True):
    """The one function that must be called."""

    name: str


class Chat(msgspec.Struct, frozen=True, kw_only=True):
    """Messages and tools. `json_object` and `json_schema` exclude each other."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolMode | NamedTool | None = None
    json_object: bool = False
    json_schema: JsonSchema | None = None


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """Sampling parameters; None: the engine's default, not sent."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None


class EngineHints(msgspec.Struct, frozen=True, kw_only=True):
    """What own engines are told beside the request. A remote is not: it would learn of tenants.

    `cache_salt`: only requests of one salt share a prefix cache; `priority`: lower goes first;
    `trace_headers`: of the caller's trace, to be continued; `dp_rank`: the data-parallel rank that
    runs it, None where the engine chooses.
    """

    cache_salt: str = ""
    priority: int = 0
    trace_headers: tuple[tuple[str, str], ...] = ()
    dp_rank: int | None = None


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be generated. `input`: a chat, a raw prompt, or its token ids."""

    request_id: str
    model: str
    input: Chat | str | tuple[int, ...]
    max_output_tokens: int
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    choices: int = 1
    logprobs: int | None = None
    ignore_eos: bool = False
    continues: bool = False
    """The last message is the beginning of the answer: the answer goes on where it ends."""
    hints: EngineHints = EngineHints()
    hops: int = 0
    """Gateways that it came through before this one."""
    remote_classes: frozenset[str] = frozenset()
    """Classes of remotes that may see it: what another gateway is told, as of the next two."""
    slo_class: SloClass | None = None
    """Of service; None: not known."""
    priority: int = 0
    """Rank within the class, higher goes first."""


class FinishReason(enum.StrEnum):
    """Why a choice ended."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"


class TokenLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """A token's natural log-probability, and its likeliest rivals."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


class ChoiceDelta(msgspec.Struct, frozen=True, kw_only=True):
    """New output of one choice."""

    index: int
    text: str = ""
    reasoning_text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None

    @property
    def has_content(self) -> bool:
        """Whether a client that saw it has seen output: the commit point of a request."""
        return bool(self.text or self.reasoning_text or self.tool_calls)


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """One frame of an upstream's stream.

    `output_tokens`: tokens of all choices so far, exact where the upstream tells them with each
    frame, else the frames with content. `usage`: the final account, at most once, at the end.
    `response_id`: the upstream's own name for the answer, once it has told it.
    """

    deltas: tuple[ChoiceDelta, ...]
    output_tokens: int
    usage: Usage | None = None
    model: str = ""
    response_id: str = ""
