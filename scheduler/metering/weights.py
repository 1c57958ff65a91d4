"""Weights by which a group's price is shared at an instant, from the step model.

A chunk of a prompt that adds P seconds to a step of B sequences that decode takes P / (P + T(B)) of
its time. The sequences share the rest: kappa for each KV token, and
equal parts of the remaining T(B).
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from scheduler.metering.runs import NodeShare
from scheduler.metering.totals import SCALE, SCALE_BITS
from scheduler.step_time.step_model import StepModel


class Weights(msgspec.Struct, frozen=True, gc=False):
    """Fractions of SCALE, which together are never more: of the prompt that is computed, of each
    sequence and each KV token, of all own sequences, and of others. `even`: of a sequence, if all
    had the same part. `prompt_speed`: seconds of predicted prefill that pass in a second."""

    prompt: int = 0
    sequence: int = 0
    kv: int = 0
    own: int = 0
    external: int = 0
    prompt_speed: float = 0.0
    even: int = 0

    @property
    def busy(self) -> bool:
        """Whether any weight is positive."""
        return bool(self.prompt or self.sequence or self.kv or self.external)


NOTHING = Weights()
KEPT_BATCHES = 4096


class Others(NamedTuple):
    """External load: sequences, their KV tokens, and the share of time spent on their prompts."""

    sequences: int
    kv_tokens: int
    prefill_share: float


NO_OTHERS = Others(0, 0, 0.0)


class StepTimes:
    """Times of a step model. Values that depend on the batch size alone are cached."""

    __slots__ = ("_fixed", "chunk_s", "kv_s", "model")

    def __init__(self, model: StepModel) -> None:
        self.model = model
        self.kv_s = model.kv_token_s / model.ranks
        self.chunk_s = model.prefill_time_s(model.chunk_tokens, model.chunk_tokens, 1.0)
        self._fixed: dict[int, float] = {}

    def step_s(self, batch: int, kv_tokens: int) -> float:
        """T(B)."""
        fixed_s = self._fixed.get(batch)
        if fixed_s is None:
            if len(self._fixed) >= KEPT_BATCHES:
                self._fixed.clear()
            fixed_s = self._fixed[batch] = self.model.decode_step_s(batch, 0)
        return fixed_s + self.kv_s * kv_tokens


def cached_amount(
    times: StepTimes | None, prefill: int, uncached_tokens: int, cached_tokens: int
) -> int:
    """Part of the amount of a prefill that is attention to cached input."""
    if times is None or not cached_tokens or not uncached_tokens:
        return 0
    whole_s = times.model.prefill_time_s(uncached_tokens, uncached_tokens + cached_tokens)
    alone_s = times.model.prefill_time_s(uncached_tokens, uncached_tokens)
    weight = int((1.0 - alone_s / whole_s) * SCALE) if whole_s else 0
    return prefill * weight >> SCALE_BITS


def weigh(
    times: StepTimes | None,
    nodes: NodeShare | None,
    *,
    prompts_s: float | None,
    owed: bool,
    sequences: int,
    kv_tokens: int,
    others: Others,
    by_tokens: bool = False,
) -> Weights:
    """Weights of the instant. `prompts_s`: predicted prefill of the prompts that are at their turn
    or wait for it; None: no prompt is computed. `owed`: the prompt was computed in time that was
    charged to other sequences, so those are not charged now. `sequences`, `kv_tokens`: own
    sequences that decode, and their KV tokens. `by_tokens`: nothing is generated, and what runs at
    the same time shares by its prompt tokens."""
    batch, all_kv = sequences + others.sequences, kv_tokens + others.kv_tokens
    if prompts_s is None and not batch and not others.prefill_share:
        return NOTHING
    step_s = kv_s = 0.0
    if times is not None and batch:
        kv_s = times.kv_s
        step_s = times.step_s(batch, all_kv)
    prompt_part = speed = 0.0
    if prompts_s is not None:
        prompt_part = 1.0
        if times is not None and batch and not owed:
            chunk_s = min(prompts_s, times.chunk_s)
            prompt_part = chunk_s / (chunk_s + step_s)
        speed = prompt_part
    decode_part = 1.0 - prompt_part if batch else 0.0
    if nodes is not None:
        prefill_nodes = nodes.prefill / (nodes.prefill + nodes.decode)
        prompt_part = 0.0 if prompts_s is None else prefill_nodes
        decode_part = 1.0 - prefill_nodes if batch else 0.0
        speed = 1.0
    left = 1.0 - others.prefill_share
    kv_part = kv_s / step_s if step_s else 0.0
    sequence_part = (1.0 - kv_part * all_kv) / batch if batch else 0.0
    prompt = int(prompt_part * left * SCALE)
    sequence = int(decode_part * left * sequence_part * SCALE)
    kv = int(decode_part * left * kv_part * SCALE)
    if by_tokens and all_kv:
        sequence, kv = 0, int(decode_part * left * SCALE) // all_kv
    free, shared = SCALE - prompt, sequence * batch + kv * all_kv
    if shared > free:  # by the last bits of floats
        sequence -= -((free - shared) // max(1, batch))
        shared = sequence * batch + kv * all_kv
    own = sequence * sequences + kv * kv_tokens
    external = min(shared - own + int(others.prefill_share * SCALE), free - own)
    even = shared // batch if batch else 0
    return Weights(prompt, sequence, kv, own, external, speed * left, even)
