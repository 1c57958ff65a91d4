"""Generations as messages of another moegate, and its messages as chunks: no I/O.

The reverse of `gateway/doors/grpc/requests.py` and `gateway/translation/responses.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from math import isfinite

from msgspec import structs

from gateway.config.remote import Feature
from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.generation import (
    MAX_ID_CHARACTERS,
    Chat,
    ChoiceDelta,
    Chunk,
    Deviation,
    DeviationKind,
    FinishReason,
    Generation,
    Grammar,
    Image,
    Message,
    NamedTool,
    Regex,
    Sampling,
    Signature,
    TextChoice,
    TokenLogprob,
    ToolCall,
)
from gateway.domain.request_bounds import MAX_STOP_BYTES
from gateway.domain.slices import Steps
from gateway.translation.chat_input import ROLES, TOOL_MODES, parse_signatures
from gateway.translation.chat_options import EFFORTS
from gateway.translation.responses import FINISH, signature_message, tool_call_message
from gateway.translation.slo_classes import PROTO_OF
from gateway.upstream.answer_bounds import UNBOUNDED, AnswerBounds, shortened
from gateway.upstream.signatures import SignatureBounds, forwarded_origin, origin_behind
from gateway.upstream.token_estimate import estimated_tokens
from gateway.upstream.usage_claims import Claim, Seen, judged, larger
from moegate.v1 import chat_pb2, generation_pb2, pooling_pb2

MOEGATE_FEATURES = frozenset(Feature) - {Feature.CONTINUATION}
"""Features that the API of another gateway can express; its upstreams may support fewer."""
MAX_PARTS = 1000
"""Most parts of one choice in one message; the other gateway sends one."""
_ROLES = {role: proto for proto, role in ROLES.items()}
_TOOL_MODES = {mode: proto for proto, mode in TOOL_MODES.items()}
_EFFORTS = {effort: proto for proto, effort in EFFORTS.items()}
_FINISH = {proto: reason for reason, proto in FINISH.items()}


_STEP_TOKENS = 16_384
"""Token ids that are converted in one step."""


def generate_request(
    generation: Generation,
    upstream_model: str,
    *,
    origin: str = "",
    session_id: str = "",
    local_only: bool = False,
    shared_classes: Collection[str] = (),
    tell_slo: bool = True,
    max_priority: int = 0,
) -> Steps[generation_pb2.GenerateRequest]:
    """The request to another gateway, without an id: two callers of this one may have the same.

    `origin`: of the other gateway, which receives only the signatures that came through it;
    `session_id`: hint of the session, not its own id; `tell_slo`: with the class of service and the
    priority, `max_priority` at most. Raises ValueError if the API cannot express the generation
    (`features.unsupported`)."""
    if generation.continues:
        raise ValueError("the API cannot say that an answer goes on")
    proto = generation_pb2.GenerateRequest(
        model=upstream_model,
        max_output_tokens=generation.max_output_tokens,
        stop=generation.stop,
        choices=generation.choices,
        logprobs=generation.logprobs,
        ignore_eos=generation.ignore_eos,
        min_tokens=generation.min_tokens,
        logit_bias=dict(generation.logit_bias),
        stop_token_ids=generation.stop_token_ids,
        session_id=session_id,
    )
    match generation.input:
        case Chat() as chat:
            yield from _fill_chat(proto.chat, chat, origin)
        case str(prompt):
            proto.prompt = prompt
        case tuple() as token_ids:
            for start in range(0, len(token_ids), _STEP_TOKENS):
                proto.prompt_tokens.token_ids.extend(token_ids[start : start + _STEP_TOKENS])
                yield
        case _:
            raise ValueError("vectors and scores have requests of their own")
    if generation.sampling != Sampling():
        for name in Sampling.__struct_fields__:
            if (value := getattr(generation.sampling, name)) is not None:
                setattr(proto.sampling, name, value)
    write_terms(
        proto,
        generation,
        local_only=local_only,
        shared_classes=shared_classes,
        tell_slo=tell_slo,
        max_priority=max_priority,
    )
    return proto


def write_terms(
    proto: generation_pb2.GenerateRequest | pooling_pb2.EmbedRequest | pooling_pb2.ScoreRequest,
    generation: Generation,
    *,
    local_only: bool,
    shared_classes: Collection[str],
    tell_slo: bool,
    max_priority: int,
) -> None:
    """Writes the class of service, the priority and the data policy of a request."""
    if tell_slo:
        if generation.slo_class is not None:
            proto.slo.slo_class = PROTO_OF[generation.slo_class]
        proto.priority = min(generation.priority, max_priority)
    allowed = sorted(generation.remote_classes & frozenset(shared_classes))
    if local_only or (shared_classes and not allowed):
        proto.data_policy.local_only = True
    elif allowed:
        proto.data_policy.remote_classes.extend(allowed)


def _fill_chat(proto: chat_pb2.ChatInput, chat: Chat, origin: str) -> Steps[None]:
    for message in chat.messages:
        proto.messages.append(_message(message, origin))
        yield
    for tool in chat.tools:
        yield
        proto.tools.add(
            name=tool.name,
            description=tool.description,
            parameters_json_schema=tool.parameters_json_schema,
            strict=tool.strict,
        )
    match chat.tool_choice:
        case None:
            pass
        case NamedTool(name=name):
            proto.tool_choice.function_name = name
        case mode:
            proto.tool_choice.mode = _TOOL_MODES[mode]
    if chat.json_object:
        proto.response_format.json_object = True
    elif (schema := chat.json_schema) is not None:
        proto.response_format.json_schema.name = schema.name
        proto.response_format.json_schema.schema_json = schema.schema_json
        proto.response_format.json_schema.strict = schema.strict
    match chat.constraint:
        case Regex(pattern):
            proto.response_format.regex = pattern
        case TextChoice(texts):
            proto.response_format.choice.texts.extend(texts)
        case Grammar(text):
            proto.response_format.grammar = text
    if chat.parallel_tool_calls is not None:
        proto.parallel_tool_calls = chat.parallel_tool_calls
    proto.chat_template_kwargs_json = chat.template_kwargs_json
    proto.adaptive_thinking = chat.adaptive_thinking
    if (reasoning := chat.reasoning) is not None:
        if reasoning.effort is not None:
            proto.reasoning.effort = _EFFORTS[reasoning.effort]
        if reasoning.thinking is not None:
            proto.reasoning.thinking = reasoning.thinking
        if reasoning.budget_tokens is not None:
            proto.reasoning.budget_tokens = reasoning.budget_tokens


def _message(message: Message, origin: str) -> chat_pb2.ChatMessage:
    return chat_pb2.ChatMessage(
        role=_ROLES[message.role],
        parts=[_part(part) for part in message.parts],
        name=message.name,
        tool_calls=[_tool_call(call, origin) for call in message.tool_calls],
        tool_call_id=message.tool_call_id,
        reasoning_text=message.reasoning_text,
        signatures=map(signature_message, _its_own(message.signatures, origin)),
    )


def _tool_call(call: ToolCall, origin: str) -> chat_pb2.ToolCall:
    if call.signatures:
        call = structs.replace(call, signatures=tuple(_its_own(call.signatures, origin)))
    return tool_call_message(call)


def _its_own(signatures: Iterable[Signature], origin: str) -> Iterator[Signature]:
    """The signatures that came through the other gateway, with the origins that it knows."""
    for each in signatures:
        if behind := origin_behind(origin, each.origin):
            yield Signature(origin=behind, data=each.data)


def _part(part: str | Image) -> chat_pb2.ContentPart:
    if isinstance(part, str):
        return chat_pb2.ContentPart(text=part)
    if part.url:
        return chat_pb2.ContentPart(image=chat_pb2.ImagePart(url=part.url))
    image = chat_pb2.ImagePart(data=part.data, media_type=part.media_type)
    return chat_pb2.ContentPart(image=image)


class AnswerDecoder:
    """Decodes one stream: `feed` it messages until `ended`, or the end of the call, then `end`.

    `choices`: how many were requested. `prompt_tokens`: estimates them, called if no usage comes.
    `origin`: of the other gateway, becomes a part of the origins of signatures. `bounds`: what the
    answer can hold at most.

    Attributes:
        started: the first output has come.
        cut: too much output has come, so that nothing that follows matters.
    """

    def __init__(
        self,
        choices: int,
        prompt_tokens: Callable[[], int],
        *,
        origin: str = "",
        bounds: AnswerBounds = UNBOUNDED,
    ) -> None:
        self._unfinished = set(range(choices))
        self._choices = choices
        self._estimated_prompt_tokens = prompt_tokens
        self._bounds = bounds
        self._origin = origin
        self._signatures = [SignatureBounds() for _ in range(choices)]
        self._output_tokens = 0
        self._pieces = [0] * choices
        self._bytes = [0] * choices
        self.cut = False
        self._deviations: list[Deviation] = []
        self._done: generation_pb2.Done | None = None
        self.started = False

    @property
    def ended(self) -> bool:
        """Whether the last message, or too much output, has come."""
        return self._done is not None or self.cut

    @property
    def finished(self) -> bool:
        """Whether every choice has its finish reason, so that only the usage may be missing."""
        return not self._unfinished

    def feed(self, message: generation_pb2.GenerateResponse) -> Chunk | None:
        """The output in a message; None: there is none. Raises UpstreamFailure."""
        match message.WhichOneof("event"):
            case "delta":
                if len(message.delta.choices) > MAX_PARTS * self._choices:
                    text = f"{len(message.delta.choices)} parts in one message"
                    raise UpstreamFailure(FailureKind.PROTOCOL, text)
                deltas = tuple(self._delta(choice) for choice in message.delta.choices)
                if self.cut:
                    length = FinishReason.LENGTH
                    deltas += tuple(
                        ChoiceDelta(index=index, finish_reason=length)
                        for index in sorted(self._unfinished)
                    )
                    self._unfinished.clear()
                # Empty ones are a sign of life, and no output.
                if not all(_is_empty(choice) for choice in message.delta.choices):
                    return Chunk(deltas=deltas, output_tokens=self._output_tokens)
            case "done":
                self._done = message.done
        return None

    def end(self) -> Chunk:
        """The last chunk, with the usage. Raises UpstreamFailure: the answer was cut."""
        done = self._done or generation_pb2.Done()
        missing = len(self._unfinished)
        if missing and (missing == self._choices or missing != done.missing_choices):
            cut = f"the stream was cut: {missing} of {self._choices} choices unfinished"
            raise UpstreamFailure(FailureKind.SERVER_ERROR, cut)
        size_bytes = sum(self._bytes)
        least = max(self._output_tokens, estimated_tokens(size_bytes))
        seen = Seen(size_bytes=size_bytes, least_tokens=least, cut=self.cut)
        claim = claim_of(done.usage) if done.HasField("usage") else Claim()
        usage, refused = judged(claim, seen, self._bounds, self._estimated_prompt_tokens)
        if done.usage.estimated:
            usage = structs.replace(usage, estimated=True)
        return Chunk(
            deltas=(),
            output_tokens=usage.completion_tokens,
            usage=usage,
            model=done.model[:MAX_ID_CHARACTERS],
            response_id=done.request_id[:MAX_ID_CHARACTERS],
            missing_choices=missing,
            deviations=(*self._deviations, *refused),
        )

    def _delta(self, proto: generation_pb2.ChoiceDelta) -> ChoiceDelta:
        if proto.index >= self._choices:
            message = f"choice {proto.index} in a stream of {self._choices} choices"
            raise UpstreamFailure(FailureKind.PROTOCOL, message)
        reason = _FINISH.get(proto.finish_reason, FinishReason.STOP)  # of a later version
        if proto.finish_reason not in _FINISH:
            word = Deviation(kind=DeviationKind.FINISH_WORD, detail=str(proto.finish_reason))
            self._deviations.append(word)
        delta = ChoiceDelta(
            index=proto.index,
            text=proto.text,
            reasoning_text=proto.reasoning_text,
            tool_calls=tuple(
                ToolCall(
                    index=call.index,
                    id=call.id,
                    name=call.name,
                    arguments_json=call.arguments_json,
                    signatures=self._kept(proto.index, call.signatures),
                )
                for call in proto.tool_calls
            ),
            logprobs=tuple(
                TokenLogprob(
                    token=entry.token,
                    logprob=entry.logprob,
                    top=tuple(
                        (top.token, top.logprob) for top in entry.top if isfinite(top.logprob)
                    ),
                )
                for entry in proto.logprobs
                if isfinite(entry.logprob)
            ),
            finish_reason=reason,
            signatures=self._kept(proto.index, proto.signatures),
            matched_stop=proto.matched_stop[:MAX_STOP_BYTES],
        )
        if delta.finish_reason is not None:
            self._unfinished.discard(delta.index)
        # A message holds several tokens where the gateway is busy; log-probabilities count them.
        pieces = len(delta.logprobs) or delta.has_content
        self._output_tokens += pieces
        self._pieces[delta.index] += pieces
        self._bytes[delta.index] += len(delta.text.encode()) + len(delta.reasoning_text.encode())
        self._bytes[delta.index] += sum(len(c.arguments_json.encode()) for c in delta.tool_calls)
        self.started = self.started or delta.has_content or delta.finish_reason is not None
        size_bytes = self._bytes[delta.index]
        if size_bytes > self._bounds.ample_bytes and (
            self._bounds.is_too_much(size_bytes, self._pieces[delta.index])
        ):
            self.cut = True
            excess = size_bytes - self._bounds.most_bytes
            delta = shortened(delta, excess) if excess > 0 else delta
        return delta

    def _kept(
        self, choice: int, protos: Sequence[chat_pb2.ReasoningSignature]
    ) -> tuple[Signature, ...]:
        if not protos:
            return ()
        return self._signatures[choice].kept(
            structs.replace(each, origin=forwarded_origin(self._origin, each.origin))
            for each in parse_signatures(protos)
        )


def _is_empty(proto: generation_pb2.ChoiceDelta) -> bool:
    return all(field.name == "index" for field, _ in proto.ListFields())


def claim_of(proto: generation_pb2.Usage) -> Claim:
    """The counts as the other gateway reports them. Negative ones are unknown."""

    def known(name: str) -> int | None:
        count: int = getattr(proto, name)
        return larger(None, count) if proto.HasField(name) else None

    return Claim(
        prompt_tokens=larger(None, proto.prompt_tokens),
        completion_tokens=larger(None, proto.completion_tokens),
        cached_tokens=known("cached_tokens"),
        reasoning_tokens=known("reasoning_tokens"),
        cache_write_tokens=known("cache_write_tokens"),
    )
