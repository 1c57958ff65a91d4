"""Converts domain values into response messages."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from gateway.domain.generation import ChoiceDelta, Chunk, FinishReason, Signature, ToolCall
from gateway.domain.outcomes import Finished
from moegate.v1 import chat_pb2, generation_pb2
from scheduler.contract import PlacementKind, Usage
from scheduler.metering.settlement import CostBasis, SettledAttempt, TokenKind

FINISH = {
    None: generation_pb2.FINISH_REASON_UNSPECIFIED,
    FinishReason.STOP: generation_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: generation_pb2.FINISH_REASON_LENGTH,
    FinishReason.TOOL_CALLS: generation_pb2.FINISH_REASON_TOOL_CALLS,
    FinishReason.CONTENT_FILTER: generation_pb2.FINISH_REASON_CONTENT_FILTER,
}
KIND = {
    PlacementKind.SELF_HOSTED: generation_pb2.PLACEMENT_KIND_LOCAL,
    PlacementKind.REMOTE: generation_pb2.PLACEMENT_KIND_REMOTE,
}
_BASIS = {
    CostBasis.METERED: generation_pb2.COST_BASIS_METERED,
    CostBasis.LIST_PRICE: generation_pb2.COST_BASIS_LIST_PRICE,
    CostBasis.ESTIMATED: generation_pb2.COST_BASIS_ESTIMATED,
}
_TOKEN_KIND = {
    TokenKind.UNCACHED_INPUT: generation_pb2.TOKEN_KIND_UNCACHED_INPUT,
    TokenKind.CACHED_INPUT: generation_pb2.TOKEN_KIND_CACHED_INPUT,
    TokenKind.OUTPUT: generation_pb2.TOKEN_KIND_OUTPUT,
}


def duration(seconds: float) -> Duration:
    """Converts seconds into a Duration, rounded to nanoseconds."""
    message = Duration()
    _write_time(message, seconds)
    return message


def delta_message(chunk: Chunk) -> generation_pb2.GenerateResponse:
    """Converts one chunk into a stream message."""
    message = generation_pb2.GenerateResponse()
    choices = message.delta.choices
    for delta in chunk.deltas:
        write_choice(choices.add(), delta)
    return message


def write_choice(message: generation_pb2.ChoiceDelta, delta: ChoiceDelta) -> None:
    """Writes new output of one choice into `message`."""
    if delta.index:
        message.index = delta.index
    message.text = delta.text
    if delta.finish_reason is not None:
        message.finish_reason = FINISH[delta.finish_reason]
        message.matched_stop = delta.matched_stop
    if delta.reasoning_text:
        message.reasoning_text = delta.reasoning_text
    if delta.tool_calls:
        message.tool_calls.extend(tool_call_message(call) for call in delta.tool_calls)
    if delta.signatures:
        message.signatures.extend(map(signature_message, delta.signatures))
    for entry in delta.logprobs:
        message.logprobs.add(
            token=entry.token,
            logprob=entry.logprob,
            top=[generation_pb2.TopLogprob(token=t, logprob=p) for t, p in entry.top],
        )


def usage_message(usage: Usage) -> generation_pb2.Usage:
    """Converts token usage. Unknown fields stay unset."""
    message = generation_pb2.Usage()
    _write_usage(message, usage)
    return message


def _write_usage(message: generation_pb2.Usage, usage: Usage) -> None:
    message.prompt_tokens = usage.prompt_tokens
    message.completion_tokens = usage.completion_tokens
    message.estimated = usage.estimated
    if usage.cached_tokens is not None:
        message.cached_tokens = usage.cached_tokens
    if usage.reasoning_tokens is not None:
        message.reasoning_tokens = usage.reasoning_tokens
    written = usage.all_cache_write_tokens
    if written is not None:
        message.cache_write_tokens = written


def whole_cost_message(
    settled: SettledAttempt, broken: tuple[SettledAttempt, ...]
) -> generation_pb2.Cost | None:
    """Returns the cost of an answer, including earlier attempts that broke off. A sum stays unset
    if one of its parts is unknown. Returns None if the cost of the last attempt is unknown."""
    message = cost_message(settled)
    if message is None or not broken:
        return message
    # A single remote would have read the prompt only once.
    message.ClearField("cheapest_remote_nano_usd")
    for name in ("metered_nano_usd", "charged_nano_usd"):
        costs = [getattr(part, name) for part in (settled, *broken)]
        if any(cost is None for cost in costs):
            message.ClearField(name)
        else:
            setattr(message, name, sum(costs))
    for part in broken:
        earlier = cost_message(part)
        if earlier is not None:
            message.parts.extend(earlier.parts)
    return message


def cost_message(settled: SettledAttempt) -> generation_pb2.Cost | None:
    """Returns the cost of one attempt in nano-USD; None: unknown."""
    if settled.metered_nano_usd is None and settled.charged_nano_usd is None:
        return None
    message = generation_pb2.Cost(
        price_row_id=settled.price_row_id,
        parts=[
            generation_pb2.CostPart(
                kind=_TOKEN_KIND[part.kind], tokens=part.tokens, nano_usd=part.nano_usd
            )
            for part in settled.parts
        ],
    )
    if settled.metered_nano_usd is not None:
        message.metered_nano_usd = settled.metered_nano_usd
    if settled.charged_nano_usd is not None:
        message.charged_nano_usd = settled.charged_nano_usd
    if settled.basis is not None:
        message.basis = _BASIS[settled.basis]
    if settled.cheapest_remote_nano_usd is not None:
        message.cheapest_remote_nano_usd = settled.cheapest_remote_nano_usd
    return message


def write_done(done: generation_pb2.Done, request_id: str, finished: Finished) -> None:
    """Writes the final summary of a generation into `done`. The function fills `done` in place,
    because passing a message to another message's constructor copies it."""
    done.request_id = request_id
    done.model = finished.model
    _write_usage(done.usage, finished.usage)
    done.missing_choices = finished.missing_choices
    cost = whole_cost_message(finished.settled, finished.broken)
    if cost is not None:
        done.cost.CopyFrom(cost)
    route = done.route
    route.kind = KIND[finished.kind]
    route.target = finished.pool or finished.placement
    route.replica = finished.replica
    if finished.dp_rank is not None:
        route.dp_rank = finished.dp_rank
    route.reason = finished.reason
    for record in finished.attempts:
        attempt = route.attempts.add(placement=record.placement, outcome=record.outcome)
        _write_time(attempt.started_at, record.started_unix_s)
        _write_time(attempt.duration, record.duration_s)
    timings = done.timings
    _write_time(timings.queue, finished.queue_s)
    _write_time(timings.total, finished.total_s)
    if finished.ttft_s is not None:
        _write_time(timings.ttft, finished.ttft_s)
    if finished.tpot_s is not None:
        _write_time(timings.tpot, finished.tpot_s)
    if finished.longest_gap_s is not None:
        _write_time(timings.longest_gap, finished.longest_gap_s)


def _write_time(message: Duration | Timestamp, seconds: float) -> None:
    """Writes seconds into `message`, rounded to nanoseconds."""
    message.seconds, message.nanos = divmod(round(seconds * 1e9), 1_000_000_000)


def tool_call_message(call: ToolCall) -> chat_pb2.ToolCall:
    """Converts a tool call, or one piece of it."""
    message = chat_pb2.ToolCall(
        id=call.id, name=call.name, arguments_json=call.arguments_json, index=call.index
    )
    if call.signatures:
        message.signatures.extend(map(signature_message, call.signatures))
    return message


def signature_message(signature: Signature) -> chat_pb2.ReasoningSignature:
    """Converts a signature."""
    return chat_pb2.ReasoningSignature(origin=signature.origin, data=signature.data)
