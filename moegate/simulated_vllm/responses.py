"""Bodies of answers that are not streamed, and of the model list, with the key order of vLLM."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

import msgspec

from moegate.simulated_vllm.config import SimulatedVllmConfig
from moegate.simulated_vllm.forced import tool_calls
from moegate.simulated_vllm.jobs import Job, finish_reason
from moegate.simulated_vllm.logprobs import chat_logprobs, completion_logprobs
from moegate.simulated_vllm.wire import (
    ChatAnswer,
    ChatChoice,
    ChatMessage,
    CompletionAnswer,
    CompletionChoice,
    CompletionDetails,
    PromptDetails,
    RequestTimes,
    Usage,
    encode,
)
from simulation.output import Output, OutputText, ReasoningSplit


def response_body(
    job: Job, fingerprint: str, cached_tokens: int | None, times: RequestTimes | None = None
) -> bytes:
    """The JSON of an answer. `cached_tokens`: None if the server does not report them; `times`: as
    in `Frames.end`."""
    request = job.request
    prompt_ids = list(request.prompt_ids) if job.return_token_ids else None
    completion_tokens = sum(output.tokens for output in request.outputs)
    prompt_tokens = len(request.prompt_ids)
    details = None
    if cached_tokens is not None:
        created = 0 if job.is_chat else None
        details = PromptDetails(cached_tokens, created)
    made = None
    if job.has_reasoning:
        reasoned = sum(output.reasoned_tokens(output.tokens) for output in request.outputs)
        made = CompletionDetails(reasoned)
    usage = Usage(
        prompt_tokens=prompt_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        completion_tokens=completion_tokens,
        prompt_tokens_details=details,
        completion_tokens_details=made,
    )
    numbered = list(enumerate(request.outputs))
    transfer = _transfer(job) if job.hands_over else None
    if job.is_chat:
        return encode(
            ChatAnswer(
                id=job.response_id,
                object="chat.completion",
                created=job.created_s,
                model=job.model,
                choices=[_chat_choice(job, i, output) for i, output in numbered],
                service_tier=None,
                system_fingerprint=fingerprint,
                usage=usage,
                prompt_logprobs=None,
                prompt_token_ids=prompt_ids,
                kv_transfer_params=transfer,
                metrics=times if job.tells_times else None,
            )
        )
    return encode(
        CompletionAnswer(
            id=job.response_id,
            object="text_completion",
            created=job.created_s,
            model=job.model,
            choices=[_completion_choice(job, i, output, prompt_ids) for i, output in numbered],
            service_tier=None,
            system_fingerprint=fingerprint,
            usage=usage,
            kv_transfer_params=transfer,
            metrics=times if job.tells_times else None,
        )
    )


def _chat_choice(job: Job, index: int, output: Output) -> ChatChoice:
    logprobs = None
    if job.logprobs is not None and not job.hides_reasoning:
        logprobs = msgspec.Raw(chat_logprobs(output, 0, output.tokens, job.logprobs))
    message = ChatMessage(role="assistant", content=_text(output))
    if job.has_reasoning:
        reasoning, content = ReasoningSplit(output).advance(_text(output))
        message.content = content or None
        message.reasoning = (reasoning or None) if job.include_reasoning else None
    if job.call is not None and (calls := tool_calls(job.call, output, message.content or "")):
        message.content, message.tool_calls = "", calls
    return ChatChoice(
        index=index,
        message=message,
        logprobs=logprobs,
        finish_reason=finish_reason(job, output),
        stop_reason=output.stop_reason,
        token_ids=_ids(job, output),
    )


def _completion_choice(
    job: Job, index: int, output: Output, prompt_ids: list[int] | None
) -> CompletionChoice:
    logprobs = None
    if job.logprobs is not None:
        logprobs = msgspec.Raw(completion_logprobs(output, 0, output.tokens, job.logprobs, 0)[0])
    return CompletionChoice(
        index=index,
        text=_text(output),
        logprobs=logprobs,
        finish_reason=output.finish_reason.value,
        stop_reason=output.stop_reason,
        token_ids=_ids(job, output),
        prompt_logprobs=None,
        prompt_token_ids=prompt_ids,
    )


def _text(output: Output) -> str:
    return OutputText(output).advance(output.tokens)


def _ids(job: Job, output: Output) -> list[int] | None:
    if not job.return_token_ids or job.hides_reasoning:
        return None
    return [output.token_id(position) for position in range(output.tokens)]


def _transfer(job: Job) -> dict[str, object]:
    """What vLLM's NIXL connector tells the engine that decodes."""
    return {
        "do_remote_prefill": True,
        "do_remote_decode": False,
        "remote_block_ids": [list(range(len(job.request.prompt_ids) // 16 + 1))],
        "remote_engine_id": "simulated",
        "remote_request_id": job.request.request_id,
        "remote_host": "127.0.0.1",
        "remote_port": 5600,
        "tp_size": 1,
    }


def model_list(config: SimulatedVllmConfig, adapters: Mapping[str, str], created_s: int) -> bytes:
    """The JSON of /v1/models. `adapters`: paths by name. `created_s`: Unix time."""
    permission = {
        "id": f"modelperm-{secrets.token_hex(8)}",
        "object": "model_permission",
        "created": created_s,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    card = {
        "id": config.served_model_name,
        "object": "model",
        "created": created_s,
        "owned_by": "vllm",
        "root": config.served_model_name,
        "parent": None,
        "max_model_len": config.max_model_len,
        "permission": [permission],
    }
    cards = [card]
    for name, path in adapters.items():
        own = {"id": name, "root": path, "parent": card["id"], "max_model_len": None}
        cards.append(card | own)
    return encode({"object": "list", "data": cards})
