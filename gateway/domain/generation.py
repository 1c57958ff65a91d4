"""Domain values of a generation, independent of the client's protocol and the upstream's JSON.

A door builds a `Generation`. An upstream client sends it and returns `Chunk`s. The values are
frozen msgspec structs, because building one takes a tenth of the time of a frozen dataclass and
several are built for every token.
"""

from __future__ import annotations

import enum

import msgspec

from gateway.domain.pooling import PoolingInput, Scores, Vectors
from scheduler.contract import SloClass, Usage
from scheduler.engine_steps import EngineTimes

MAX_ID_CHARACTERS = 200
"""Longest upstream response id that is kept. Longer ids are cut."""
MAX_SIGNATURES = 128
"""Most signatures of one message or choice, its tool calls included."""
MAX_SIGNATURE_BYTES = 1 << 20
"""Most bytes of the signatures of one message or choice. Some hold the reasoning text itself."""
MAX_ORIGIN_BYTES = 128
"""Longest origin of a signature."""


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """An image: either bytes with a media type, or an https URL."""

    data: bytes = b""
    media_type: str = ""
    url: str = ""


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """Opaque data by which a server recognises its own reasoning in a later request.

    `origin`: the server and model that made it; only they receive it again. `data`: written and
    read by the dialect of that server (`signatures.py` of its folder).
    """

    origin: str
    data: bytes


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A tool call, or one piece of it in a stream. Pieces with the same `index` are
    concatenated. `signatures`: those of the reasoning that directly precedes the call."""

    index: int
    id: str = ""
    name: str = ""
    arguments_json: str = ""
    signatures: tuple[Signature, ...] = ()


def call_arguments(given: str) -> str:
    """Arguments of a whole call as a client repeats them: an object where they are empty or
    null."""
    return "{}" if given.strip() in ("", "null") else given


class Role(enum.StrEnum):
    """Author of a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One message. `parts`: texts and images in order. `signatures`: those of the reasoning at the
    beginning of an assistant's message."""

    role: Role
    parts: tuple[str | Image, ...]
    name: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    reasoning_text: str = ""
    signatures: tuple[Signature, ...] = ()


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A function that the model may call. The schema is JSON text, already validated."""

    name: str
    description: str
    parameters_json_schema: str
    strict: bool = False


class JsonSchema(msgspec.Struct, frozen=True, kw_only=True):
    """Required JSON schema of the answer. The schema is JSON text, already validated."""

    name: str
    schema_json: str
    strict: bool


class ToolMode(enum.StrEnum):
    """Rule for tool calls."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"


class NamedTool(msgspec.Struct, frozen=True, kw_only=True):
    """The single function that the model must call."""

    name: str


class Regex(msgspec.Struct, frozen=True, tag=True):
    """The answer must match a regular expression, in the engine's syntax."""

    pattern: str


class TextChoice(msgspec.Struct, frozen=True, tag=True):
    """The answer must be one of the texts."""

    texts: tuple[str, ...]


class Grammar(msgspec.Struct, frozen=True, tag=True):
    """The answer must be a text of the grammar, in the engine's syntax."""

    text: str


class ReasoningEffort(enum.StrEnum):
    """How hard the model thinks. No thinking at all is `Reasoning.thinking` False."""

    MINIMAL = "minimal"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    XHIGH = "xhigh"
    MAX = "max"


class Reasoning(msgspec.Struct, frozen=True, kw_only=True):
    """How the model reasons before it answers. None: the model's default. False excludes an effort
    and a budget."""

    effort: ReasoningEffort | None = None
    thinking: bool | None = None
    budget_tokens: int | None = None

    @property
    def is_on(self) -> bool:
        """Whether thinking is switched on: by itself, or by a budget."""
        return bool(self.thinking) or self.budget_tokens is not None


class Chat(msgspec.Struct, frozen=True, kw_only=True):
    """Messages and tools. `json_object`, `json_schema` and `constraint` exclude each other.

    `parallel_tool_calls`: whether an answer may hold several tool calls; None: the model's default.
    `template_kwargs_json`: variables of the chat template, text of a JSON object; empty: none.
    `adaptive_thinking`: a model that thinks only when it is asked to may think as much as it wants;
    other models do so by themselves.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolMode | NamedTool | None = None
    json_object: bool = False
    json_schema: JsonSchema | None = None
    constraint: Regex | TextChoice | Grammar | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    template_kwargs_json: str = ""
    adaptive_thinking: bool = False


Prompt = Chat | str | tuple[int, ...]
"""What a model continues."""


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """Sampling parameters. None: not sent, so the engine's default applies."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None


class EngineHints(msgspec.Struct, frozen=True, kw_only=True):
    """Extra request fields for self-hosted engines only. Remotes do not receive them, because they
    would reveal tenants.

    `cache_salt`: requests share a prefix cache only if they have the same salt. `priority`: lower
    values run first. `trace_headers`: trace context of the caller. `dp_rank`: data-parallel rank
    that runs the request; None: the engine chooses.
    """

    cache_salt: str = ""
    priority: int = 0
    trace_headers: tuple[tuple[str, str], ...] = ()
    dp_rank: int | None = None


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """Conversation of a tenant. No server outside receives these texts: see
    `gateway/upstream/session_hint.py`."""

    tenant: str
    session_id: str


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """One request to a model. `input`: a chat, a raw prompt, token ids, or what is embedded or
    scored. Of the last two nothing is generated, and `max_output_tokens` is 0."""

    request_id: str
    model: str
    input: Prompt | PoolingInput
    max_output_tokens: int
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    choices: int = 1
    logprobs: int | None = None
    ignore_eos: bool = False
    min_tokens: int = 0
    """Least tokens per choice before the end of the sequence or a stop token may come."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Pairs of token id and what is added to its logit."""
    stop_token_ids: tuple[int, ...] = ()
    """Token ids that end the answer."""
    continues: bool = False
    """The last message is the beginning of the answer, and the model continues it."""
    hints: EngineHints = EngineHints()
    session: Session | None = None
    """Conversation that the request belongs to; None: none is known."""
    hops: int = 0
    """Number of gateways that forwarded the request before this one."""
    remote_classes: frozenset[str] = frozenset()
    """Classes of remotes that may receive the request. This field and the next two are sent only to
    another gateway."""
    slo_class: SloClass | None = None
    """Service class; None: unknown."""
    priority: int = 0
    """Priority within the service class. Higher values run first."""
    batch_work: bool = False
    """The request is of class batch, or an item of an offline job."""


class FinishReason(enum.StrEnum):
    """Reason for the end of a choice."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"


class TokenLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """Natural log-probability of a token, and of its most likely alternatives."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


class ChoiceDelta(msgspec.Struct, frozen=True, kw_only=True):
    """New output of one choice. `signatures`: to be given back with the message in a later
    request. `matched_stop`: the text of `stop` that ended the choice, as the server tells it;
    empty: none did, or it does not tell."""

    index: int
    text: str = ""
    reasoning_text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    signatures: tuple[Signature, ...] = ()
    matched_stop: str = ""

    @property
    def has_content(self) -> bool:
        """Whether the delta has visible output. Sending the first such delta commits the request to
        its placement."""
        return bool(self.text or self.reasoning_text or self.tool_calls)


class DeviationKind(enum.StrEnum):
    """What an upstream's answer did not keep to, although the answer is usable."""

    FINISH_WORD = "finish_word"
    """An unknown finish word, read as the end of the answer."""
    MISSING_CHOICE = "missing_choice"
    """Fewer choices than were requested."""
    UNREAD_FIELD = "unread_field"
    """A field of an event could not be understood and was left out."""
    OUTPUT_CUT = "output_cut"
    """More output than max_output_tokens allows: the gateway ended the stream."""
    USAGE_ZERO = "usage_zero"
    """A count of 0 tokens where there was content."""
    USAGE_TOO_MANY_PROMPT = "usage_too_many_prompt"
    USAGE_TOO_MANY_OUTPUT = "usage_too_many_output"
    """A count above what the request allows."""
    USAGE_TOO_FEW_PROMPT = "usage_too_few_prompt"
    USAGE_TOO_FEW_OUTPUT = "usage_too_few_output"
    """A count below what the content can consist of."""


class Deviation(msgspec.Struct, frozen=True, kw_only=True):
    """One deviation of an answer. `detail`: a short word for the log, never content."""

    kind: DeviationKind
    detail: str = ""


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """One frame of an upstream's stream.

    `output_tokens`: cumulative tokens of all choices. The number is exact if the upstream reports
    usage with each frame; otherwise it counts frames with content. An answer of vectors or scores
    counts as one. `usage`: final usage, at most
    once, at the end. `response_id`: the upstream's id of the answer; empty until known.
    `missing_choices`, `deviations`: of the whole answer, with the usage. `engine`: seconds that
    the engine says it spent on it; None: not told. `pooled`: the whole
    answer to a request for vectors or scores, at once.
    """

    deltas: tuple[ChoiceDelta, ...]
    output_tokens: int
    usage: Usage | None = None
    model: str = ""
    response_id: str = ""
    missing_choices: int = 0
    deviations: tuple[Deviation, ...] = ()
    engine: EngineTimes | None = None
    pooled: Vectors | Scores | None = None
