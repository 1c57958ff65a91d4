"""Turns the body of a generation into a request to the engine, with the checks of vLLM."""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass, replace

from moegate.simulated_vllm.config import SimulatedVllmConfig
from moegate.simulated_vllm.failures import (
    bad_shape,
    bad_value,
    prompt_too_long,
    unknown_model,
)
from moegate.simulated_vllm.forced import ForcedAnswer, forced_answer
from moegate.simulated_vllm.prompts import (
    THINKING_IDS,
    answer_opening,
    chat_prompt,
    completion_prompt,
    is_thinking,
)
from moegate.simulated_vllm.wire import GenerationBody
from simulation.engine.sequences import TokenRequest
from simulation.output import FinishReason, Output, StopRules, answer_seed, plan_output
from simulation.tokenizer import VOCABULARY_TOKENS

COMPLETION_MAX_TOKENS = 16
"""Default of `max_tokens` in /v1/completions."""
MOST_LOGPROBS = 20
MOST_CHOICES = 16_384
CERTAIN_BIAS = 50.0
"""Bias of a token beside which no other one is drawn; smaller ones change nothing."""
_GREEDY_BELOW = 1e-5
_UNLIMITED = -1
"""As `thinking_token_budget`: no bound."""
_BAD_BUDGET = "`thinking_token_budget` must be a non-negative integer or -1 for unlimited."
_NO_REASONING_PARSER = (
    "thinking_token_budget is set but reasoning_config is not configured. Please set"
    " --reasoning-parser and/or --reasoning-config to use thinking_token_budget."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """An accepted generation.

    Attributes:
        response_id: id in the answer. The engine uses a unique id of its own.
        model: name of the model or adapter in the answer.
        created_s: Unix time, whole seconds.
        logprobs: number of alternatives for each token; None: no log-probabilities.
        stream_interval: tokens in a chunk.
        call: the tool call that the answer is; None: it is a text.
        hands_over: another engine decodes, so the answer tells it where the KV cache is.
        has_reasoning: whether a parser tells reasoning apart; `include_reasoning`: whether it is
            told. If not, the answer has no log-probabilities or token ids either.
        tells_times: whether the answer tells how long the engine worked on it.
    """

    response_id: str
    model: str
    created_s: int
    is_chat: bool
    request: TokenRequest
    stream: bool
    include_usage: bool
    continuous_usage: bool
    stream_interval: int
    logprobs: int | None
    return_token_ids: bool
    call: ForcedAnswer | None = None
    hands_over: bool = False
    has_reasoning: bool = False
    include_reasoning: bool = True
    tells_times: bool = False

    @property
    def hides_reasoning(self) -> bool:
        """Whether reasoning, and what would give it away, is left out."""
        return self.has_reasoning and not self.include_reasoning


def make_job(
    body: GenerationBody,
    config: SimulatedVllmConfig,
    *,
    is_chat: bool,
    response_id: str,
    engine_id: str,
    created_s: int,
    adapters: Container[str] = (),
) -> Job:
    """Checks the body and plans the outputs. `adapters`: those that are loaded. Raises Refused."""
    model = check_model(body.model, config, adapters)
    _check_stream_options(body)
    prompt_ids = _prompt(body, config, is_chat)
    logprobs = _logprobs(body, is_chat)
    rules = _stop_rules(body, config, len(prompt_ids), is_chat)
    forced = forced_answer(body, is_chat, config.tool_calls)
    rules = replace(
        rules,
        forced_ids=() if forced is None else forced.token_ids,
        favourite_id=_favourite(body.logit_bias or {}),
    )
    choices = _choices(body)
    _check_sampling(body)
    seeds = (answer_seed(config.seed, prompt_ids, body.seed, i) for i in range(choices))
    transfer = body.kv_transfer_params or {}
    request = TokenRequest(
        request_id=engine_id,
        prompt_ids=prompt_ids,
        outputs=tuple(plan_output(seed, rules, config.mean_answer_tokens) for seed in seeds),
        cache_salt=body.cache_salt or "",
        adapter="" if model == config.served_model_name else model,
        transferred=bool(transfer.get("do_remote_prefill")),
    )
    options = body.stream_options
    usage = bool(options and options.include_usage)
    interval = body.stream_interval
    return Job(
        response_id=response_id,
        model=model,
        created_s=created_s,
        is_chat=is_chat,
        request=request,
        stream=bool(body.stream),
        include_usage=usage,
        continuous_usage=usage and bool(options and options.continuous_usage_stats),
        stream_interval=max(interval or 1, config.stream_interval),
        logprobs=logprobs,
        return_token_ids=bool(body.return_token_ids),
        call=forced if forced is not None and forced.tool is not None else None,
        hands_over=bool(transfer.get("do_remote_decode")),
        has_reasoning=is_chat and config.reasoning_parser is not None,
        include_reasoning=body.include_reasoning,
        tells_times=config.enable_per_request_metrics,
    )


def finish_reason(job: Job, output: Output) -> str:
    """Reason for the end of a choice, in the answer."""
    if job.call is not None and output.finish_reason is FinishReason.STOP:
        return job.call.finish_reason
    return output.finish_reason.value


def check_model(
    model: str | None, config: SimulatedVllmConfig, adapters: Container[str] = ()
) -> str:
    """Returns the name of the model or adapter; without a name it is the served one. Raises
    Refused."""
    if model and model != config.served_model_name and model not in adapters:
        raise unknown_model(model, config.served_model_name)
    return model or config.served_model_name


def pinned_rank(header: str | None, ranks: int) -> int | None:
    """Parses `X-data-parallel-rank`. None: the engine chooses the rank. Raises Refused."""
    if header is None:
        return None
    name = header.strip()
    if not (name.isascii() and name.isdecimal() and len(name) < 10 and int(name) < ranks):
        raise bad_value(None, f"data_parallel_rank {name} is out of range [0, {ranks}).")
    return int(name)


def _prompt(body: GenerationBody, config: SimulatedVllmConfig, is_chat: bool) -> list[int]:
    if is_chat:
        if body.messages is None:
            raise bad_shape("missing", "body.messages", "Field required")
        thinking = is_thinking(body.chat_template_kwargs, body.reasoning_effort)
        opening = answer_opening(config.reasoning_parser, thinking=thinking)
        ids = chat_prompt(body.messages, body.tools, opening=opening)
    else:
        ids = completion_prompt(body.prompt or "")
        if not ids:
            raise bad_value("prompt", "The decoder prompt cannot be empty")
    if len(ids) > config.max_model_len:
        given_as_ids = not is_chat and not isinstance(body.prompt, str)
        raise prompt_too_long(len(ids), config.max_model_len, given_as_ids)
    return ids


def _stop_rules(
    body: GenerationBody, config: SimulatedVllmConfig, prompt_tokens: int, is_chat: bool
) -> StopRules:
    asked, name = body.max_tokens, "max_tokens"
    if is_chat and body.max_completion_tokens is not None:
        asked, name = body.max_completion_tokens, "max_completion_tokens"
    if not is_chat and asked is None:
        asked = COMPLETION_MAX_TOKENS
    limit = config.max_model_len
    if asked is not None and asked > limit:
        raise bad_value(
            name,
            f"{name}={asked} cannot be greater than max_model_len=max_total_tokens={limit}."
            " Please request fewer output tokens.",
            asked,
        )
    room = limit - prompt_tokens
    max_tokens = room if asked is None else min(asked, room)
    if max_tokens < 1:
        raise bad_value(
            "max_tokens", f"max_tokens must be at least 1, got {max_tokens}.", max_tokens
        )
    if body.min_tokens < 0:
        raise bad_value(
            None, f"min_tokens must be greater than or equal to 0, got {body.min_tokens}."
        )
    if body.min_tokens > max_tokens:
        raise bad_value(
            None,
            f"min_tokens must be less than or equal to max_tokens={max_tokens},"
            f" got {body.min_tokens}.",
        )
    if unknown := [token for token in body.stop_token_ids or () if not _is_token(token)]:
        raise bad_value(
            "stop_token_ids",
            f"token_id(s) {unknown} in stop_token_ids contain out-of-vocab token ids."
            f" Vocabulary size: {VOCABULARY_TOKENS}",
            unknown,
        )
    reasoning_tokens = _most_reasoning_tokens(body, config, max_tokens, is_chat)
    strings = [body.stop] if isinstance(body.stop, str) else body.stop or []
    if not all(strings):
        raise bad_value(None, "stop cannot contain an empty string.")
    return StopRules(
        max_tokens=max_tokens,
        min_tokens=body.min_tokens,
        ignore_eos=body.ignore_eos,
        strings=strings,
        token_ids=frozenset(body.stop_token_ids or ()),
        keep_string=body.include_stop_str_in_output,
        reasoning_tokens=reasoning_tokens,
    )


def _most_reasoning_tokens(
    body: GenerationBody, config: SimulatedVllmConfig, max_tokens: int, is_chat: bool
) -> int | None:
    """Bound on the tokens of reasoning; None: there is no reasoning. The line break behind the
    opening tag counts among those of the budget. Raises Refused."""
    budget = body.thinking_token_budget
    if budget is not None:
        if budget < _UNLIMITED:
            raise bad_value("thinking_token_budget", _BAD_BUDGET, budget)
        if config.reasoning_parser is None:
            raise bad_value(None, _NO_REASONING_PARSER)
    if config.reasoning_parser is None or not is_chat:
        return None
    if not is_thinking(body.chat_template_kwargs, body.reasoning_effort):
        return None
    if budget is None or budget == _UNLIMITED:
        return max_tokens
    return min(max_tokens, max(0, budget - len(THINKING_IDS) + 1))


def _favourite(biases: dict[str, float]) -> int | None:
    """The token with the largest bias of those that leave no other one a chance."""
    try:
        numbers = {int(token): bias for token, bias in biases.items()}
    except ValueError as error:
        text = f"logit_bias contains key(s) that cannot be converted to int: {error}"
        raise bad_value("logit_bias", text) from error
    if unknown := [token for token in numbers if not _is_token(token)]:
        raise bad_value(
            "logit_bias",
            f"token_id(s) {unknown} in logit_bias contain out-of-vocab token ids."
            f" Vocabulary size: {VOCABULARY_TOKENS}",
            unknown,
        )
    certain = {token: bias for token, bias in numbers.items() if bias >= CERTAIN_BIAS}
    return max(certain, key=certain.__getitem__, default=None)


def _is_token(token_id: int) -> bool:
    return 0 <= token_id < VOCABULARY_TOKENS


def _choices(body: GenerationBody) -> int:
    choices = 1 if body.n is None else body.n
    if choices < 1:
        raise bad_value(None, f"n must be at least 1, got {choices}.")
    if choices > MOST_CHOICES:
        raise bad_value(None, f"n must be at most {MOST_CHOICES}, got {choices}.")
    is_greedy = body.temperature is not None and 0 <= body.temperature < _GREEDY_BELOW
    if is_greedy and choices > 1:
        raise bad_value(None, f"n must be 1 when using greedy sampling, got {choices}.")
    return choices


def _logprobs(body: GenerationBody, is_chat: bool) -> int | None:
    top = body.top_logprobs or 0
    if is_chat and not body.logprobs:
        if top:
            raise bad_value(
                "top_logprobs", "when using `top_logprobs`, `logprobs` must be set to true."
            )
        return None
    if not is_chat:
        if body.logprobs is None or body.logprobs is False:
            return None
        top = int(body.logprobs)
    if top < 0:
        raise bad_value("logprobs", f"logprobs must be non-negative or -1, got {top}.", top)
    if top > MOST_LOGPROBS:
        raise bad_value(
            "logprobs",
            f"Requested sample logprobs of {top}, which is greater than max allowed:"
            f" {MOST_LOGPROBS}",
            top,
        )
    return top


def _check_stream_options(body: GenerationBody) -> None:
    if body.stream_options is not None and not body.stream:
        text = "Stream options can only be defined when `stream=True`."
        raise bad_value("stream_options", text)
    interval = body.stream_interval
    if interval is not None and interval < 1:
        raise bad_value(
            "stream_interval", f"stream_interval must be at least 1, got {interval}.", interval
        )


def _check_sampling(body: GenerationBody) -> None:
    """Checks ranges, with the texts and the order of vllm/sampling_params.py. Raises Refused."""
    for name in ("presence_penalty", "frequency_penalty"):
        penalty = getattr(body, name)
        if penalty is not None and not -2.0 <= penalty <= 2.0:
            raise bad_value(None, f"{name} must be in [-2, 2], got {penalty}.")
    repetition = body.repetition_penalty
    if repetition is not None and not 0 < repetition < math.inf:
        raise bad_value(None, f"repetition_penalty must be greater than zero, got {repetition}.")
    temperature = body.temperature
    if temperature is not None and not 0.0 <= temperature <= 2.0:
        rule = "non-negative" if temperature < 0 else "in [0, 2]"
        raise bad_value(
            "temperature", f"temperature must be {rule}, got {temperature}.", temperature
        )
    if body.top_p is not None and not 0.0 < body.top_p <= 1.0:
        raise bad_value("top_p", f"top_p must be in (0, 1], got {body.top_p}.", body.top_p)
    if body.top_k is not None and body.top_k < -1:
        raise bad_value(None, f"top_k must be 0 (disable), or at least 1, got {body.top_k}.")
    if body.min_p is not None and not 0.0 <= body.min_p <= 1.0:
        raise bad_value(None, f"min_p must be in [0, 1], got {body.min_p}.")
