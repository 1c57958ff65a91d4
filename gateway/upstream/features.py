"""Which features a generation needs, which field of the API asks for each, and what a server takes.

Not every server has all features; each dialect says which ones it has by default.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from msgspec import structs

from gateway.config.remote import SAMPLING_FEATURES, TOGETHER, Feature
from gateway.config.tasks import Task
from gateway.domain.generation import (
    Chat,
    Generation,
    Grammar,
    Image,
    NamedTool,
    Reasoning,
    ReasoningEffort,
    Regex,
    Role,
    TextChoice,
    ToolMode,
)
from gateway.domain.pooling import EmbeddingInput, PoolingInput, ScoringInput

_TOOL_MODES = {
    ToolMode.NONE: Feature.TOOL_CHOICE_NONE,
    ToolMode.REQUIRED: Feature.TOOL_CHOICE_REQUIRED,
}
_EFFORTS = {
    ReasoningEffort.MINIMAL: Feature.EFFORT_MINIMAL,
    ReasoningEffort.XHIGH: Feature.EFFORT_XHIGH,
    ReasoningEffort.MAX: Feature.EFFORT_MAX,
}
"""Efforts that not every server with efforts takes."""


_SAMPLING_FIELDS: dict[Feature, tuple[str, ...]] = {
    feature: (feature.value,) for feature in SAMPLING_FEATURES - {Feature.PENALTIES}
} | {Feature.PENALTIES: ("presence_penalty", "frequency_penalty")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a server takes.

    `features`: features that it has; `refused_together`: sets of features of which a request may
    not use all; `drop`: sampling parameters that are left out of a request which it would refuse,
    the first ones first.
    """

    features: frozenset[Feature]
    refused_together: tuple[frozenset[Feature], ...] = ()
    drop: tuple[Feature, ...] = ()

    def fitted(self, generation: Generation) -> Generation:
        """The generation, without parameters that `drop` allows to leave out and that would be
        refused."""
        if not self.drop:
            return generation
        used = {feature for feature, _ in _used(generation)}
        left_out = {feature for feature in self.drop if feature in used - self.features}
        for together in self.refused_together:
            if together <= used - left_out:
                left_out.update([feature for feature in self.drop if feature in together][:1])
        if not left_out:
            return generation
        fields = {f: None for x in left_out for f in _SAMPLING_FIELDS[x]}
        return structs.replace(generation, sampling=structs.replace(generation.sampling, **fields))

    def unsupported(self, generation: Generation) -> tuple[str, ...]:
        """Fields of GenerateRequest that are set and refused, alone or together; the latter are
        joined by "+"."""
        fields = unsupported(generation, self.features)
        if not self.refused_together:
            return fields
        by_feature: dict[Feature, str] = {}
        for feature, field in _used(generation):
            by_feature.setdefault(feature, field)
        together = (
            TOGETHER.join(by_feature[feature] for feature in sorted(each))
            for each in self.refused_together
            if each <= by_feature.keys() and each <= self.features
        )
        return (*fields, *together)


def capabilities(
    usual: frozenset[Feature],
    *,
    can: Iterable[Feature] = (),
    cannot: Iterable[str] = (),
    drop: Iterable[Feature] = (),
    together: Iterable[frozenset[Feature]] = (),
) -> Capabilities:
    """What a server takes. `usual`: features of its API; `together`: sets of them that its API
    refuses; `can`, `cannot`, `drop`: see
    `RemoteConfig`."""
    lacks = [frozenset(map(Feature, lack.split(TOGETHER))) for lack in cannot]
    alone = frozenset[Feature]().union(*(lack for lack in lacks if len(lack) == 1))
    return Capabilities(
        features=(usual | frozenset(can)) - alone,
        refused_together=(*together, *(lack for lack in lacks if len(lack) > 1)),
        drop=tuple(drop),
    )


def task_of(generation: Generation) -> Task:
    """What a server must do for the request."""
    match generation.input:
        case EmbeddingInput():
            return Task.EMBED
        case ScoringInput():
            return Task.SCORE
        case _:
            return Task.GENERATE


def unsupported(generation: Generation, features: frozenset[Feature]) -> tuple[str, ...]:
    """Fields of the request that are set and need a feature that is not among `features`."""
    fields = (field for feature, field in _used(generation) if feature not in features)
    return tuple(dict.fromkeys(fields))


def _used(generation: Generation) -> Iterator[tuple[Feature, str]]:
    sampling = generation.sampling
    if sampling.temperature is not None:
        yield Feature.TEMPERATURE, "sampling.temperature"
    if sampling.top_p is not None:
        yield Feature.TOP_P, "sampling.top_p"
    if sampling.top_k is not None:
        yield Feature.TOP_K, "sampling.top_k"
    if sampling.min_p is not None:
        yield Feature.MIN_P, "sampling.min_p"
    if sampling.repetition_penalty is not None:
        yield Feature.REPETITION_PENALTY, "sampling.repetition_penalty"
    if sampling.presence_penalty is not None:
        yield Feature.PENALTIES, "sampling.presence_penalty"
    if sampling.frequency_penalty is not None:
        yield Feature.PENALTIES, "sampling.frequency_penalty"
    if sampling.seed is not None:
        yield Feature.SEED, "sampling.seed"
    if generation.ignore_eos:
        yield Feature.IGNORE_EOS, "ignore_eos"
    if generation.min_tokens:
        yield Feature.MIN_TOKENS, "min_tokens"
    if generation.logit_bias:
        yield Feature.LOGIT_BIAS, "logit_bias"
    if generation.stop_token_ids:
        yield Feature.STOP_TOKEN_IDS, "stop_token_ids"
    if generation.choices > 1:
        yield Feature.CHOICES, "choices"
    if generation.logprobs is not None:
        yield Feature.LOGPROBS, "logprobs"
    if generation.stop:
        yield Feature.STOP, "stop"
    if generation.continues:
        yield Feature.CONTINUATION, "chat.messages"
    match generation.input:
        case Chat() as chat:
            yield from _used_by_chat(chat)
        case str():
            yield Feature.PROMPT, "prompt"
        case tuple():
            yield Feature.PROMPT_TOKENS, "prompt_tokens"
        case pooling:
            yield from _used_by_pooling(pooling)


def _used_by_pooling(pooling: PoolingInput) -> Iterator[tuple[Feature, str]]:
    if isinstance(pooling, EmbeddingInput):
        if not all(isinstance(each, str) for each in pooling.inputs):
            yield Feature.PROMPT_TOKENS, "tokens"
        if pooling.dimensions is not None:
            yield Feature.DIMENSIONS, "dimensions"
    if pooling.truncate_tokens is not None:
        yield Feature.TRUNCATION, "truncate_tokens"


def _used_by_reasoning(reasoning: Reasoning) -> Iterator[tuple[Feature, str]]:
    if reasoning.effort is not None:
        yield Feature.REASONING_EFFORT, "chat.reasoning.effort"
        if reasoning.effort in _EFFORTS:
            yield _EFFORTS[reasoning.effort], "chat.reasoning.effort"
    if reasoning.budget_tokens is not None:
        yield Feature.THINKING_BUDGET, "chat.reasoning.budget_tokens"
    match reasoning.thinking:
        case True:
            yield Feature.THINKING, "chat.reasoning.thinking"
        case False:
            yield Feature.NO_THINKING, "chat.reasoning.thinking"
        case None if reasoning.is_on:
            yield Feature.THINKING, "chat.reasoning.budget_tokens"


def _used_by_chat(chat: Chat) -> Iterator[tuple[Feature, str]]:
    if chat.tools:
        yield Feature.TOOLS, "chat.tools"
    match chat.tool_choice:
        case NamedTool():
            yield Feature.TOOL_CHOICE_NAMED, "chat.tool_choice.function_name"
        case ToolMode() as mode if mode in _TOOL_MODES:
            yield _TOOL_MODES[mode], "chat.tool_choice.mode"
    for i, tool in enumerate(chat.tools):
        if tool.strict:
            yield Feature.STRICT, f"chat.tools[{i}].strict"
    if chat.json_object:
        yield Feature.JSON_OBJECT, "chat.response_format.json_object"
    if chat.json_schema is not None:
        yield Feature.JSON_SCHEMA, "chat.response_format.json_schema"
        if chat.json_schema.strict:
            yield Feature.STRICT, "chat.response_format.json_schema.strict"
    match chat.constraint:
        case Regex():
            yield Feature.REGEX, "chat.response_format.regex"
        case TextChoice():
            yield Feature.TEXT_CHOICE, "chat.response_format.choice"
        case Grammar():
            yield Feature.GRAMMAR, "chat.response_format.grammar"
    if chat.parallel_tool_calls is False:
        yield Feature.ONE_TOOL_CALL, "chat.parallel_tool_calls"
    if chat.template_kwargs_json:
        yield Feature.CHAT_TEMPLATE_KWARGS, "chat.chat_template_kwargs_json"
    if chat.reasoning is not None:
        yield from _used_by_reasoning(chat.reasoning)
    begun = False
    for i, message in enumerate(chat.messages):
        path = f"chat.messages[{i}]"
        if message.role is Role.SYSTEM:
            yield Feature.SYSTEM, f"{path}.role"
            if begun:
                yield Feature.LATE_SYSTEM, f"{path}.role"
        else:
            begun = True
        if message.name:
            yield Feature.NAMES, f"{path}.name"
        if message.tool_calls or message.tool_call_id:
            yield Feature.TOOLS, f"{path}.tool_calls" if message.tool_calls else path
        if len(message.tool_calls) > 1:
            yield Feature.PARALLEL_TOOL_CALLS, f"{path}.tool_calls"
        if any(isinstance(part, Image) for part in message.parts):
            yield Feature.IMAGES, f"{path}.parts"
