"""An answer of the plugin `moegate-vllm` (`moegate/vllm_plugin/feed.py`), read leniently.

Columns are found by their names: a later plugin may have more of them. A value that cannot be is
the error of the whole answer, since the others would not be right either; one of the experts, which
come from elsewhere, costs only the experts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from scheduler.engine_steps import (
    EngineRequest,
    EngineStep,
    ExpertSignature,
    ExpertStep,
    ExpertSteps,
)

PATH = "/moegate/steps"
_FORMAT = 1
_OLDEST_S = 3600.0
"""Steps that ended longer ago are left out."""
_REQUEST_ID = re.compile(r"(?:[0-9]{1,6}_)?(?:chatcmpl-(.+)|cmpl-(.+)-[0-9]{1,6})", re.DOTALL)

_Count = Annotated[int, Meta(ge=0, le=1_000_000_000_000)]
_Seconds = Annotated[float, Meta(ge=0, le=1e9)]
_Share = Annotated[float, Meta(ge=0, le=1.001)]
_Rank = Annotated[int, Meta(ge=0, le=65_535)]
_Name = Annotated[str, Meta(max_length=1024)]
_Rows = Annotated[list[list[Any]], Meta(max_length=16_384)]
_Loads = Annotated[list[Annotated[float, Meta(ge=0, le=1e12)]], Meta(max_length=4096)]
_Names = Annotated[list[_Name], Meta(max_length=256)]
_Expert = Annotated[int, Meta(ge=0, le=65_535)]
_Layers = Annotated[list[Annotated[list[_Expert], Meta(max_length=64)]], Meta(max_length=16)]


T = TypeVar("T")


class BadFeed(ValueError):
    """The answer is none of the plugin; the text says why."""


class _Moe(msgspec.Struct):
    experts: Annotated[int, Meta(ge=1, le=65_536)]
    experts_per_token: Annotated[int, Meta(ge=1, le=65_536)]


class _Answer(msgspec.Struct):
    format: int
    instance: Annotated[str, Meta(pattern="^[0-9a-f]{1,64}$")]
    now_s: _Seconds
    next: _Count
    step_fields: _Names
    request_fields: _Names
    steps: _Rows
    requests: _Rows
    processes: Annotated[int, Meta(ge=1, le=65_535)] = 1
    lost: _Count = 0
    more: bool = False
    moe: Any = None
    expert_fields: Any = ()
    expert_steps: Any = ()
    signature_fields: Any = ()
    signatures: Any = ()


class _Step(msgspec.Struct):
    at_s: _Seconds
    decode_requests: _Count
    decode_tokens: _Count
    elapsed_s: _Seconds
    engine: _Rank = 0
    prefill_requests: _Count = 0
    prefill_tokens: _Count = 0
    prompt_tokens: _Count | None = None
    output_tokens: _Count | None = None
    period_s: _Seconds | None = None
    dummy: bool = False
    kv_usage: _Share = 0.0
    preemptions: _Count = 0


class _ExpertStep(msgspec.Struct):
    at_s: _Seconds
    tokens: _Count
    distinct: Annotated[float, Meta(ge=0, le=65_536)]
    prefill_tokens: _Count = 0
    load: _Loads = []


class _Signature(msgspec.Struct):
    id: _Name
    experts: _Layers


class _Request(msgspec.Struct):
    id: _Name
    queued_s: _Seconds | None = None
    prefill_s: _Seconds | None = None
    decode_s: _Seconds | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedAnswer:
    """What one answer tells. `instance`: of the process that answered; `next`: where its entries
    continue; `processes`: API servers of the deployment; `more`: it has further entries now."""

    instance: str
    next: int
    processes: int
    lost: int
    more: bool
    steps: tuple[EngineStep, ...]
    requests: tuple[EngineRequest, ...]
    experts: ExpertSteps | None
    signatures: tuple[ExpertSignature, ...] = ()


def parse_steps(text: bytes, at_s: float) -> FeedAnswer:
    """Reads an answer. `at_s`: when it came, on the scheduler's clock. Raises BadFeed."""
    try:
        answer = msgspec.json.decode(text, type=_Answer)
        if answer.format != _FORMAT:
            raise BadFeed(f"format {answer.format} is not {_FORMAT}: update moegate or its plugin")
        steps = _rows(answer.step_fields, answer.steps, list[_Step])
        requests = _rows(answer.request_fields, answer.requests, list[_Request])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadFeed(f"not the answer of moegate's plugin: {str(error)[:200]}") from None
    ages_s = ((answer.now_s - step.at_s, step) for step in steps)
    return FeedAnswer(
        instance=answer.instance,
        next=answer.next,
        processes=answer.processes,
        lost=answer.lost,
        more=answer.more,
        steps=tuple(
            _engine_step(step, at_s - age_s)
            for age_s, step in ages_s
            if 0 <= age_s <= _OLDEST_S and _fits(step)
        ),
        requests=tuple(
            EngineRequest(
                request_id=name,
                queued_s=one.queued_s,
                prefill_s=one.prefill_s,
                decode_s=one.decode_s,
            )
            for one in requests
            if (name := _request_id(one.id))
        ),
        experts=_experts(answer),
        signatures=_signatures(answer),
    )


def _request_id(engine_id: str) -> str:
    """The gateway's id of a sequence; empty: it has none."""
    found = _REQUEST_ID.fullmatch(engine_id)
    return "" if found is None else str(found[1] or found[2])


def _experts(answer: _Answer) -> ExpertSteps | None:
    try:
        moe = msgspec.convert(answer.moe, _Moe | None)
        names = msgspec.convert(answer.expert_fields, _Names)
        rows = _rows(names, msgspec.convert(answer.expert_steps, _Rows), list[_ExpertStep])
    except msgspec.ValidationError:
        return None
    if moe is None or moe.experts_per_token > moe.experts:
        return None
    return ExpertSteps(
        experts=moe.experts,
        experts_per_token=moe.experts_per_token,
        steps=tuple(
            ExpertStep(
                tokens=step.tokens,
                prefill_tokens=step.prefill_tokens,
                distinct=step.distinct,
                load=tuple(step.load),
            )
            for step in rows
            if 0 <= answer.now_s - step.at_s <= _OLDEST_S
        ),
    )


def _signatures(answer: _Answer) -> tuple[ExpertSignature, ...]:
    try:
        names = msgspec.convert(answer.signature_fields, _Names)
        rows = _rows(names, msgspec.convert(answer.signatures, _Rows), list[_Signature])
    except msgspec.ValidationError:
        return ()
    return tuple(
        ExpertSignature(request_id=name, experts=tuple(map(tuple, row.experts)))
        for row in rows
        if (name := _request_id(row.id))
    )


def _rows(fields: list[str], rows: list[list[Any]], kind: type[list[T]]) -> list[T]:
    # Without the columns that are None: those have a default, or are missed by name.
    named = [
        {name: value for name, value in zip(fields, row, strict=False) if value is not None}
        for row in rows
    ]
    return msgspec.convert(named, kind)


def _fits(step: _Step) -> bool:
    """Whether the step can be fitted. Dummy steps have no work of their own, and the wait for a
    result that a decoding batch computed beside another one is no step time."""
    if step.dummy:
        return False
    return step.period_s is not None or (step.prefill_requests > 0 and not step.decode_requests)


def _engine_step(step: _Step, at_s: float) -> EngineStep:
    return EngineStep(
        rank=step.engine,
        at_s=at_s,
        took_s=step.elapsed_s if step.period_s is None else step.period_s,
        sequences=step.decode_requests,
        decode_tokens=step.decode_tokens,
        output_tokens=step.output_tokens,
        prefills=step.prefill_requests,
        prefill_tokens=step.prefill_tokens,
        prompt_tokens=step.prompt_tokens,
        kv_usage=step.kv_usage,
        preemptions=step.preemptions,
    )
