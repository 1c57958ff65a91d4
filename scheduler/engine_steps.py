"""What an engine tells of its single steps and finished requests: plain, frozen values."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCounts:
    """Totals of an engine since its start, summed over its data-parallel ranks. They feed the fit
    of step times.

    Attributes:
        ranks: number of ranks summed.
        gaps, gaps_s: number and total duration of the intervals between two outputs of a sequence.
            One output is one engine step; with speculative decoding it has several tokens.
        first_tokens: sequences whose prefill has ended.
        steps: steps with any output, over all ranks.
        cached_prompt_tokens: prompt tokens found in the prefix cache.
        preemptions: sequences preempted because KV blocks ran out.
        prefill_s: time from the start of a request's computation to its first token, summed over
            the requests that have ended.
        drafts, draft_tokens, accepted_tokens: speculative decoding; 0 without it.
    """

    ranks: int = 1
    gaps: int | None = None
    gaps_s: float | None = None
    first_tokens: int | None = None
    steps: int | None = None
    cached_prompt_tokens: int | None = None
    preemptions: int | None = None
    prefill_s: float | None = None
    drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class KvTransfers:
    """KV caches that travelled between the engines of a disaggregated replica: totals since their
    start.

    Attributes:
        count, seconds: transfers that succeeded, and their durations added up. Each worker of a
            tensor-parallel engine counts its own.
        requests: sequences that were computed further on an engine that decodes.
        tokens: prompt tokens whose KV cache these engines fetched.
    """

    count: int
    seconds: float
    requests: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStep:
    """One step of one rank.

    Attributes:
        rank: data-parallel rank.
        at_s: its end, on the scheduler's clock.
        took_s: time since the end of the previous step (by a sequence that decoded in both);
            without such a sequence, the engine's wait for the result.
        sequences: those that decode in it; their prefill ended earlier.
        decode_tokens: computed for them, drafts included.
        output_tokens: that they gained; None: unknown.
        prefills: sequences of which it computes a part of the prompt.
        prefill_tokens: prompt tokens that it computes.
        prompt_tokens: whole length of these prompts; None: not all are computed in one step.
        kv_usage: share of the rank's KV cache in use after it, 0 to 1.
        preemptions: sequences that were thrown back into the queue.
    """

    rank: int
    at_s: float
    took_s: float
    sequences: int
    decode_tokens: int
    output_tokens: int | None
    prefills: int
    prefill_tokens: int
    prompt_tokens: int | None
    kv_usage: float
    preemptions: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertStep:
    """The experts that one step of one rank used.

    Attributes:
        tokens: that it computed, drafts included.
        prefill_tokens: those of prompts among them.
        distinct: different experts of a layer that these tokens chose, mean over the layers.
        load: choices that fell on each expert-parallel rank, mean over the layers; empty: unknown,
            or the model is not expert-parallel.
    """

    tokens: int
    prefill_tokens: int
    distinct: float
    load: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertSteps:
    """Steps of a model whose layers have `experts`, of which each token takes
    `experts_per_token`."""

    experts: int
    experts_per_token: int
    steps: tuple[ExpertStep, ...]


class EngineTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of one request by the engine, which it tells with the end of the answer.

    `whole_s`: from its arrival in the engine's queue to the last token. `prefill_had_s`,
    `decode_had_s`: what it had of the engine's steps, shared with those that ran beside it, all
    choices together; None: not told.
    """

    whole_s: float
    prefill_had_s: float | None = None
    decode_had_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """One sequence that an engine has finished. Times in seconds; None: it did not come so far.

    `request_id`: the gateway's; `queued_s`: until its prefill began, `prefill_s`: from then to the
    first token, `decode_s`: from the first to the last token.
    """

    request_id: str
    queued_s: float | None
    prefill_s: float | None
    decode_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertSignature:
    """The experts that one finished sequence used most, of a few layers that stand for all.

    `request_id`: the gateway's; `experts`: by layer, those used most first.
    """

    request_id: str
    experts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSteps:
    """Steps and finished requests of one engine since the last such event.

    Attributes:
        placement: the engine; of a server with pinned ranks, its first placement.
        whole: all steps of all ranks are among them, as far as they were read in time. Otherwise an
            API server told only the steps that it was told.
        restarted: the engine was started anew since the last event.
        experts: None: the engine does not count them.
    """

    placement: str
    at_s: float
    steps: tuple[EngineStep, ...]
    requests: tuple[EngineRequest, ...] = ()
    whole: bool = True
    restarted: bool = False
    experts: ExpertSteps | None = None
