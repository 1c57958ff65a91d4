"""From a parsed generation to the scheduler's `Request`: what the caller may have, and until when.

Prompt tokens are estimated from bytes by a ratio per model that is learnt from the usage that
engines report; token-id prompts are counted.
"""

from __future__ import annotations

from collections.abc import Collection

from gateway.auth.authenticator import Caller
from gateway.config.gateway import GatewayConfig, SloFiguresConfig
from gateway.domain.generation import Chat, Generation, Image
from gateway.doors.grpc import errors
from gateway.translation.slo_classes import CLASS_OF
from moegate.v1 import generation_pb2
from scheduler.contract import Request, Slo, SloClass

FIRST_BYTES_PER_TOKEN = 4.0
"""The usual ratio of English text; corrected by what engines report."""
RATIO_WEIGHT = 0.05
"""Weight of a new ratio in the running mean."""
IMAGE_TOKENS = 1024
"""Tokens that a picture is taken for: the order of what open vision models use."""
TOKENS_PER_MESSAGE = 4
"""Tokens that a chat template adds to each message."""


class PromptSizes:
    """Estimates prompt tokens, per model, and learns from what engines report."""

    def __init__(self) -> None:
        self._bytes_per_token: dict[str, float] = {}

    def estimate(self, generation: Generation) -> int:
        """Prompt tokens; exact for token ids."""
        if isinstance(generation.input, tuple):
            return len(generation.input)
        size_bytes, extra_tokens = _prompt_size(generation.input)
        ratio = self._bytes_per_token.get(generation.model, FIRST_BYTES_PER_TOKEN)
        return max(1, round(size_bytes / ratio) + extra_tokens)

    def learn(self, generation: Generation, prompt_tokens: int) -> None:
        """Takes the count that the engine reported."""
        if isinstance(generation.input, tuple):
            return
        size_bytes, extra_tokens = _prompt_size(generation.input)
        if prompt_tokens <= extra_tokens or size_bytes < 64:
            return  # too short to tell: the template is most of it
        seen = min(16.0, max(0.5, size_bytes / (prompt_tokens - extra_tokens)))
        ratio = self._bytes_per_token.get(generation.model, FIRST_BYTES_PER_TOKEN)
        self._bytes_per_token[generation.model] = ratio + RATIO_WEIGHT * (seen - ratio)


def _prompt_size(generation_input: Chat | str | tuple[int, ...]) -> tuple[int, int]:
    """Bytes of text, and tokens that are not text."""
    if isinstance(generation_input, str):
        return len(generation_input.encode()), 0
    if isinstance(generation_input, tuple):
        return 0, len(generation_input)
    size_bytes = sum(
        len(tool.parameters_json_schema) + len(tool.description) for tool in generation_input.tools
    )
    extra_tokens = 0
    for message in generation_input.messages:
        extra_tokens += TOKENS_PER_MESSAGE
        size_bytes += sum(len(call.arguments_json) for call in message.tool_calls)
        for part in message.parts:
            if isinstance(part, Image):
                extra_tokens += IMAGE_TOKENS
            else:
                size_bytes += len(part.encode())
    return size_bytes, extra_tokens


def scheduler_request(
    proto: generation_pb2.GenerateRequest,
    generation: Generation,
    *,
    caller: Caller,
    config: GatewayConfig,
    prompt_tokens: int,
    unsupported_by: Collection[str],
    now: float,
    remaining_s: float | None,
    holds_output: bool = False,
) -> Request:
    """The request as the scheduler sees it. Raises RpcError (PERMISSION_DENIED) for its class.

    `remaining_s`: time to the client's deadline, None without one; `holds_output`: the client gets
    nothing before the end.
    """
    if remaining_s is None:
        remaining_s = config.limits.default_deadline_s
    return Request(
        # Clients choose request ids; two keys may choose the same one.
        request_id=f"{caller.key_id}/{generation.request_id}",
        tenant=caller.tenant,
        model=generation.model,
        arrival_s=now,
        deadline_s=now + remaining_s,
        slo=_slo(proto.slo, caller, config),
        priority=proto.priority,
        prompt_tokens=prompt_tokens,
        prompt_tokens_exact=isinstance(generation.input, tuple),
        max_output_tokens=generation.max_output_tokens,
        choices=generation.choices,
        size_bytes=proto.ByteSize(),
        remote_classes=_remote_classes(proto.data_policy, caller, config),
        session_id=proto.session_id,
        weight=caller.weight,
        key_id=caller.key_id,
        unsupported_by=frozenset(unsupported_by),
        holds_output=holds_output,
    )


def _slo(proto: generation_pb2.Slo, caller: Caller, config: GatewayConfig) -> Slo:
    default = caller.slo_classes[0] if caller.slo_classes else SloClass.INTERACTIVE
    slo_class = CLASS_OF.get(proto.slo_class, default)
    if not caller.allows_slo_class(slo_class):
        mine = ", ".join(caller.slo_classes)
        raise errors.denied(f"slo.slo_class: key {caller.key_id} may use {mine}, not {slo_class}")
    figures: SloFiguresConfig = getattr(config.slo_classes, slo_class.value)
    return Slo(
        slo_class=slo_class,
        ttft_s=proto.ttft.ToNanoseconds() / 1e9 if proto.HasField("ttft") else figures.ttft_s,
        tpot_s=proto.tpot.ToNanoseconds() / 1e9 if proto.HasField("tpot") else figures.tpot_s,
        max_queue_s=figures.max_queue_s,
    )


def _remote_classes(
    proto: generation_pb2.DataPolicy, caller: Caller, config: GatewayConfig
) -> frozenset[str]:
    if proto.local_only:
        return frozenset()
    known = frozenset(remote.remote_class for remote in config.remotes)
    mine = frozenset(filter(caller.allows_remote_class, known))
    asked = frozenset(proto.remote_classes)
    if not asked:
        return mine
    if not asked <= mine:
        # Bounded: a longer answer than gRPC takes as trailers would not reach the client.
        refused = ", ".join(sorted(asked - mine))[:200]
        raise errors.denied(
            f"data_policy.remote_classes: key {caller.key_id} may not use {refused}"
        )
    return asked
