"""The kind of an error by its words and its text, in the wordings of real servers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.domain.failures import FailureKind
from gateway.upstream.http.failures import failure_in, failure_of_event, http_failure

TOO_LONG = [
    # vLLM: chat, raw prompts, older and newer.
    "This model's maximum context length is 8192 tokens. However, your prompt contains at least "
    "8193 input tokens, which exceeds this limit even without any output tokens.",
    "This model's maximum context length is 16384 tokens. However, you requested 19591 tokens "
    "(9591 in the messages, 10000 in the completion). Please reduce the length of the messages.",
    "The decoder prompt (length 163840) is longer than the maximum model length of 131072. Make "
    "sure that `max_model_len` is no smaller than the number of text tokens.",
    "The prompt (total length 25938) is too long to fit into the model (context length 4096).",
    "The engine prompt length 3000 exceeds the max_model_len 2048. Please reduce prompt.",
    "You passed 8193 input tokens and requested 0 output tokens. However, the model's context "
    "length is only 8192 tokens, resulting in a maximum input length of 8192 tokens.",
    "max_tokens=99999 cannot be greater than max_model_len=max_total_tokens=8192.",
    "'max_tokens' or 'max_completion_tokens' is too large: 9000. This model's maximum context "
    "length is 8192 tokens and your request has 12 input tokens (9000 > 8192 - 12).",
    # SGLang.
    "The input (61709 tokens) is longer than the model's context length (40960 tokens).",
    "Input length (160062 tokens) exceeds the maximum allowed length (59862 tokens). Use a "
    "shorter input or enable --allow-auto-truncate.",
    "Requested token count exceeds the model's maximum context length of 32768 tokens. You "
    "requested a total of 40000 tokens: 30000 tokens from the input messages and 10000 tokens "
    "for the completion.",
    # OpenAI, Azure.
    "Your input exceeds the context window of this model. Please adjust your input and try again.",
    "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 300000 "
    "tokens. Please reduce the length of the messages.",
    # Anthropic, Bedrock, Vertex.
    "prompt is too long: 213462 tokens > 200000 maximum",
    "input length and `max_tokens` exceed context limit: 199000 + 20000 > 200000, decrease input "
    "length or `max_tokens` and try again",
    "Input is too long for requested model.",
    # Gemini.
    "The input token count (1196265) exceeds the maximum number of tokens allowed (1048576).",
    "The input token count exceeds the maximum number of tokens allowed 1048576.",
    "Unable to submit request because the input token count is 1234567 but the model only supports "
    "up to 1048576. Reduce the input token count and try again.",
    # Kimi, GLM, MiniMax, DeepSeek, DashScope.
    "Invalid request: Your request exceeded model token limit: 262144 (requested: 291351)",
    "Prompt exceeds max length",
    "Messages have 40000 tokens, which exceeds the max limit of 32768 tokens",
    "Request 182387 input tokens exceeds the model's maximum context length 202750",
    "invalid params, context window exceeds limit (2013)",
    "Range of input length should be [1, 129024]",
    "输入长度超过模型上限",
    # Mistral, Cohere, xAI, Groq, Together, Fireworks, OpenRouter, Copilot, Poolside.
    "Prompt contains 65537 tokens and 0 draft tokens, too large for model with 32768 maximum "
    "context length",
    "too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 8000",
    "too many tokens: size limit exceeded by 2000 tokens. Try using shorter or fewer inputs.",
    "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
    "Please reduce the length of the messages or completion.",
    "`inputs` tokens + `max_new_tokens` must be <= 8193. Given: 8000 `inputs` tokens and 1000 "
    "`max_new_tokens`",
    "Input validation error: `inputs` must have less than 1024 tokens. Given: 1100",
    "The prompt is too long: 140000, model maximum context length: 131071",
    "This endpoint's maximum context length is 32768 tokens. However, you requested about 42832 "
    "tokens (42832 of text input).",
    "prompt token count of 150000 exceeds the limit of 128000",
    "Input length 300000 exceeds the maximum allowed input length of 200000 tokens.",
    # llama.cpp, Ollama, LM Studio.
    "the request exceeds the available context size, try increasing it",
    "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it",
    "prompt too long; exceeded max context length by 4 tokens",
    "The number of tokens to keep from the initial prompt is greater than the context length.",
    "Prompt has 5000 tokens, but the configured context size is 4096 tokens",
]


@pytest.mark.parametrize("text", TOO_LONG)
@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_prompt_that_is_too_long(status: int, text: str) -> None:
    body = json.dumps({"error": {"message": text, "code": status}}).encode()
    found = http_failure(status, body, {}, 0.0)
    assert found.kind is FailureKind.CONTEXT_LENGTH
    event = json.dumps({"error": {"message": text}}).encode()
    in_band = failure_in(event)
    assert in_band is not None
    assert in_band.kind is FailureKind.CONTEXT_LENGTH


@pytest.mark.parametrize(
    "error",
    [
        {"code": "context_length_exceeded"},
        {"code": "1261", "message": "..."},
        {"code": 1261, "message": "..."},
        {"type": "exceed_context_size_error", "n_ctx": 4096},
        {"param": "input_tokens", "type": "BadRequestError"},
        {"code": "tokens_limit_reached", "message": "Request body too large. Max size: 8000."},
    ],
)
def test_words_of_a_prompt_that_is_too_long(error: dict[str, Any]) -> None:
    found = http_failure(400, json.dumps({"error": error}).encode(), {}, 0.0)
    assert found.kind is FailureKind.CONTEXT_LENGTH


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens is too large: 50000. This model supports at most 16384 completion tokens, "
        "whereas you provided 50000.",
        "max_tokens: 300000 > 64000, which is the maximum allowed number of output tokens for m",
        "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]",
        "Range of max_tokens should be [1, 8192]",
        "`max_tokens` must be less than or equal to `8192`, the maximum value for `max_tokens` is "
        "less than the `context_window` for this model",
        "max_tokens exceeds the limit of 8192",
        "too many tokens: max tokens must be less than or equal to 4096, the maximum output for "
        "this model - received 10000",
        "max_completion_tokens must be at least 1",
        "temperature must be non-negative",
        "Invalid 'messages[0].name': string too long. Expected a string with maximum length 64.",
        "Invalid 'stop': array too long. Expected an array with maximum length 4.",
        "tools.0.custom.name: String should have at most 64 characters",
        "String value length (20054016) exceeds the maximum allowed (20000000)",
        "Input should be a valid integer",
        "The parameter `n` exceeds the maximum allowed",
        "image exceeds 5 MB maximum: 6000000 bytes > 5242880 bytes",
        "Conversation roles must alternate user/assistant/user/assistant/...",
        "Unsupported parameter: context",
    ],
)
def test_another_fault_of_the_request_is_not_its_length(text: str) -> None:
    for status in (400, 422):
        body = json.dumps({"error": {"message": text}}).encode()
        assert http_failure(status, body, {}, 0.0).kind is FailureKind.BAD_REQUEST


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (
            413,
            {
                "message": "Request too large for model `llama` in organization `o` service tier "
                "`on_demand` on tokens per minute (TPM): Limit 6000, Requested 14368, please "
                "reduce your message size and try again.",
                "type": "tokens",
                "code": "rate_limit_exceeded",
            },
            "BUSY",
        ),
        (
            429,
            {
                "message": "Request too large for gpt-4o in organization org-x on tokens per min "
                "(TPM): Limit 30000, Requested 61337. The input or output tokens must be reduced "
                "in order to run successfully.",
                "code": "rate_limit_exceeded",
            },
            "BUSY",
        ),
        (400, {"message": "Too many tokens, please wait before trying again."}, "BUSY"),
        (400, {"code": "Throttling.RateQuota", "message": "Requests rate limit exceeded"}, "BUSY"),
        (403, {"code": "Throttling.AllocationQuota", "message": "quota"}, "BUSY"),
        (500, {"type": "overloaded_error", "message": "Overloaded"}, "BUSY"),
        (500, {"message": "The model is overloaded. Please try again later."}, "BUSY"),
        (503, {"code": 503, "status": "UNAVAILABLE", "message": "overloaded"}, "BUSY"),
        (429, {"type": "engine_overloaded_error"}, "BUSY"),
        (429, {"status": "RESOURCE_EXHAUSTED", "message": "Resource exhausted"}, "BUSY"),
        (500, {"message": "prompt is too long"}, "SERVER_ERROR"),
        (500, {"message": "rate limiter crashed"}, "SERVER_ERROR"),
        (429, {"code": "insufficient_quota", "message": "You exceeded"}, "CREDIT"),
        (429, {"type": "exceeded_current_quota_error"}, "CREDIT"),
        (429, {"message": "You exceeded your current quota, please check your plan"}, "CREDIT"),
        (400, {"code": "Arrearage", "message": "Access denied"}, "CREDIT"),
        (400, {"message": "Your credit balance is too low to access the API"}, "CREDIT"),
        (400, {"message": "You have reached your specified API usage limits."}, "CREDIT"),
        (402, {"message": "Insufficient Balance"}, "CREDIT"),
        (403, {"message": "Insufficient credits"}, "CREDIT"),
        (429, {"code": "1113", "message": "账户已欠费"}, "CREDIT"),
        (400, {"code": "invalid_api_key"}, "CREDENTIALS"),
        (400, {"code": 400, "details": [{"reason": "API_KEY_INVALID"}]}, "CREDENTIALS"),
        (403, {"message": "Access denied"}, "CREDENTIALS"),
        (401, {"message": "see the docs on rate limits"}, "CREDENTIALS"),
        (403, {"code": "rate_limit_exceeded"}, "BUSY"),
        (400, {"code": "model_not_found"}, "MODEL_NOT_FOUND"),
        (403, {"code": "model_not_found", "message": "no access"}, "MODEL_NOT_FOUND"),
        (400, {"code": "1211", "message": "模型不存在"}, "MODEL_NOT_FOUND"),
        (400, {"code": "content_filter"}, "CONTENT_FILTER"),
        (400, {"code": "DataInspectionFailed", "message": "Input"}, "CONTENT_FILTER"),
        (400, {"message": "Output blocked by content filtering policy"}, "CONTENT_FILTER"),
        (403, {"message": 'Your input was flagged for "violence".'}, "CONTENT_FILTER"),
        (403, {"message": "blocked by the network policy"}, "CREDENTIALS"),
        (400, {"message": "Content violates usage guidelines."}, "CONTENT_FILTER"),
        (403, {"message": "Content violates usage guidelines. Team: t"}, "CONTENT_FILTER"),
        (400, {"message": "grok-x is not a valid model ID", "code": 400}, "MODEL_NOT_FOUND"),
        (400, {"message": "Invalid model name passed in model=x"}, "MODEL_NOT_FOUND"),
        (400, {"message": "/chat/completions: Invalid model name passed"}, "MODEL_NOT_FOUND"),
        (400, {"message": "tool 'a is not a valid model ID' has no schema"}, "BAD_REQUEST"),
    ],
)
def test_words_and_texts_of_other_kinds(status: int, error: dict[str, Any], kind: str) -> None:
    found = http_failure(status, json.dumps({"error": error}).encode(), {}, 0.0)
    assert found.kind.name == kind


def test_content_that_xai_refuses_is_not_the_fault_of_the_key() -> None:
    """As it refuses: the status of a key without rights, and the text as the whole error."""
    body = {
        "code": "The caller does not have permission to execute the specified operation",
        "error": "Content violates usage guidelines. Team: t, API key ID: k, Model: grok-4, "
        "Failed check: SAFETY_CHECK_TYPE_BIO",
    }
    found = http_failure(403, json.dumps(body).encode(), {}, 0.0)
    assert found.kind is FailureKind.CONTENT_FILTER


def test_a_quota_that_is_reset_soon_is_load_and_not_credit() -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "20s"}]
    message = "You exceeded your current quota, please check your plan and billing details."
    body = json.dumps([{"error": {"code": 429, "message": message, "details": details}}]).encode()
    found = http_failure(429, body, {}, 0.0)
    assert (found.kind, found.retry_after_s) == (FailureKind.BUSY, 20.0)


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        ({"error": {"message": "x", "code": 429}}, "BUSY"),
        ({"error": {"message": "x", "code": "rate_limit_exceeded"}}, "BUSY"),
        ({"error": {"message": "EngineCore encountered an issue", "code": 500}}, "SERVER_ERROR"),
        ({"error": {"type": "overloaded_error"}, "type": "error"}, "BUSY"),
        ({"error": {"type": "invalid_request_error", "message": "x"}}, "BAD_REQUEST"),
        ([{"error": {"code": 503, "message": "x", "status": "UNAVAILABLE"}}], "BUSY"),
        ({"code": "DataInspectionFailed", "message": "inappropriate content"}, "CONTENT_FILTER"),
        ({"code": "InvalidApiKey", "message": "Invalid API-key"}, "CREDENTIALS"),
        ({"code": "Throttling", "message": "limit"}, "BUSY"),
        ({"base_resp": {"status_code": 1002, "status_msg": "rate limit"}}, "BUSY"),
        ({"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}, "CREDIT"),
        ({"base_resp": {"status_code": 2013, "status_msg": "x"}}, "SERVER_ERROR"),
        ({"object": "error", "message": "x", "code": 400}, "BAD_REQUEST"),
    ],
)
def test_errors_that_come_under_status_200(payload: object, kind: str) -> None:
    found = failure_of_event(json.dumps(payload).encode())
    assert found is not None
    assert found.kind.name == kind


@pytest.mark.parametrize(
    "payload",
    [
        b'{"id": "x", "choices": []}',
        b'{"message": "position 3 in the queue"}',
        b'{"base_resp": {"status_code": 0, "status_msg": ""}}',
        b'{"error": null}',
        b'{"type": "ping"}',
        b"[]",
        b"oops",
    ],
)
def test_events_that_are_no_error(payload: bytes) -> None:
    assert failure_of_event(payload) is None
