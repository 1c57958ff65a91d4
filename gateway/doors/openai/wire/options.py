"""Options that the endpoints of OpenAI share: sampling, and what engines of open models add."""

from __future__ import annotations

import msgspec

from gateway.domain import request_bounds as bounds
from gateway.domain.generation import Reasoning, ReasoningEffort, Sampling
from gateway.doors.http.errors import HttpError, invalid

MAX_STOPS = 16
"""OpenAI allows 4; engines of open models more."""
MAX_SEED = 2**63 - 1


class SamplingFields(msgspec.Struct, kw_only=True):
    """Fields of a body that choose tokens. The last line holds those that vLLM adds."""

    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    logit_bias: dict[str, float] | None = None
    stop: str | list[str] | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    stop_token_ids: list[int] | None = None


def end_user_of(*names: object) -> str:
    """Whom the caller acts for: the first of the fields that is a text; empty: none is."""
    return next((name for name in names if isinstance(name, str) and name), "")


def sampling_of(body: SamplingFields) -> Sampling:
    """Raises HttpError (INVALID)."""
    values: dict[str, float | None] = {}
    for name, (least, most) in bounds.SAMPLING_BOUNDS.items():
        value = values[name] = getattr(body, name)
        if value is not None and not least <= value <= most:
            raise invalid(name, f"{value}: {bounds.bounds_text(name)}")
    if body.top_k is not None and body.top_k < -1:
        raise invalid("top_k", f"{body.top_k}: give 1 or more, or -1 for all")
    if body.seed is not None and abs(body.seed) > MAX_SEED:
        raise invalid("seed", f"{body.seed}: give {-MAX_SEED} to {MAX_SEED}")
    top_k = None if body.top_k == 0 else body.top_k  # 0 means all, too
    return Sampling(**values, top_k=top_k, seed=body.seed)


def stops_of(body: SamplingFields) -> tuple[str, ...]:
    """Raises HttpError (INVALID)."""
    given = [body.stop] if isinstance(body.stop, str) else body.stop or []
    stops = tuple(stop for stop in given if stop)
    if len(stops) > MAX_STOPS:
        raise invalid("stop", f"{len(stops)} texts: at most {MAX_STOPS}")
    for stop in stops:
        if (size := len(stop.encode())) > bounds.MAX_STOP_BYTES:
            raise invalid("stop", f"a text of {size} bytes: at most {bounds.MAX_STOP_BYTES}")
    return stops


def logit_bias_of(body: SamplingFields) -> tuple[tuple[int, float], ...]:
    """Raises HttpError (INVALID)."""
    given = body.logit_bias or {}
    if len(given) > bounds.MAX_LOGIT_BIASES:
        raise invalid("logit_bias", f"{len(given)} tokens: at most {bounds.MAX_LOGIT_BIASES}")
    found = []
    for text, bias in given.items():
        token = int(text) if text.isascii() and text.isdecimal() and len(text) <= 10 else -1
        if not 0 <= token <= bounds.MAX_TOKEN_ID:
            raise invalid("logit_bias", f"{text[:20]!r} is no token id")
        most = bounds.MAX_LOGIT_BIAS
        if not abs(bias) <= most:
            raise invalid("logit_bias", f"{bias} for token {token}: give {-most} to {most}")
        found.append((token, bias))
    return tuple(sorted(found))


def stop_token_ids_of(body: SamplingFields) -> tuple[int, ...]:
    """Raises HttpError (INVALID)."""
    found = tuple(dict.fromkeys(body.stop_token_ids or ()))
    if len(found) > bounds.MAX_STOP_TOKEN_IDS:
        raise invalid("stop_token_ids", f"{len(found)}: at most {bounds.MAX_STOP_TOKEN_IDS}")
    for token in found:
        if not 0 <= token <= bounds.MAX_TOKEN_ID:
            raise invalid("stop_token_ids", f"{token} is no token id")
    return found


def min_tokens_of(body: SamplingFields, max_output_tokens: int) -> int:
    """Raises HttpError (INVALID)."""
    least = body.min_tokens or 0
    if not 0 <= least <= max_output_tokens:
        raise invalid("min_tokens", f"{least}: give 0 to max_tokens, which is {max_output_tokens}")
    return least


def check_model(model: str) -> None:
    """Raises HttpError (INVALID) unless the text can be the name of a model."""
    if not model:
        raise invalid("model", "empty: name a model that /v1/models gives")
    if len(model) > bounds.MAX_MODEL_CHARS:
        raise invalid("model", f"{len(model)} characters: at most {bounds.MAX_MODEL_CHARS}")


class ReasoningFields(msgspec.Struct, kw_only=True):
    """`reasoning` of the Responses API and of OpenRouter."""

    effort: str | None = None
    enabled: bool | None = None
    max_tokens: int | None = None
    exclude: bool | None = None


class ThinkingFields(msgspec.Struct, kw_only=True):
    """`thinking`, as DeepSeek, Moonshot and Z.ai have it."""

    type: str = "enabled"
    budget_tokens: int | None = None


def reasoning_of(
    effort: str | None,
    reasoning: ReasoningFields | None,
    thinking: ThinkingFields | None = None,
) -> Reasoning | None:
    """The wishes for reasoning; None: there are none. An effort that nobody knows is none: clients
    send what the newest models take. `effort`: `reasoning_effort`."""
    budget: int | None = None
    is_on: bool | None = None
    if thinking is not None:
        is_on = thinking.type not in ("disabled", "none")
        budget = thinking.budget_tokens
    if reasoning is not None:
        effort = reasoning.effort or effort
        budget = reasoning.max_tokens or budget
        is_on = is_on if reasoning.enabled is None else reasoning.enabled
    if effort == "none":
        is_on = False
    if is_on is False:
        return Reasoning(thinking=False)
    try:
        found = None if effort is None else ReasoningEffort(effort)
    except ValueError:
        found = None
    if budget is not None and budget <= 0:
        raise _not_positive(budget)
    if found is None and budget is None and is_on is None:
        return None
    return Reasoning(effort=found, thinking=is_on, budget_tokens=budget)


def _not_positive(budget: int) -> HttpError:
    return invalid("reasoning.max_tokens", f"{budget}: give at least 1, or leave it out")
