"""What kind of failure an upstream's error is: by its words, its text, and its HTTP status. Pure.

Texts are those of real servers: vLLM, SGLang, TGI, llama.cpp, Ollama, LM Studio; OpenAI, Azure,
Anthropic, Gemini, Bedrock, Mistral, Cohere, xAI, Groq, DeepSeek, Kimi, GLM, MiniMax, DashScope,
Together, Fireworks, OpenRouter. Each of them is a row of the test's table.
"""

from __future__ import annotations

import re

from gateway.domain.failures import FailureKind, kind_of_status
from gateway.upstream.http.error_body import ErrorReport

_TOO_LONG_WORDS = frozenset(
    {
        *("context_length_exceeded", "input_tokens", "context_window_exceeded", "1261"),
        *("model_context_window_exceeded", "exceed_context_size_error", "tokens_limit_reached"),
        *("contextwindowexceedederror", "prompt_too_long", "input_too_long"),
    }
)
_FILTERED_WORDS = frozenset(
    {
        *("content_filter", "content_policy_violation", "moderation_blocked", "1301"),
        *("data_inspection_failed", "datainspectionfailed", "responsibleaipolicyviolation"),
        *("content_filtered", "base_resp:1026", "base_resp:1027"),
    }
)
_UNPAID_WORDS = frozenset(
    {
        *("insufficient_quota", "credit_balance_exhausted", "billing_hard_limit_reached"),
        *("billing_not_active", "spend_limit_reached", "exceeded_current_quota_error"),
        *("billing_error", "insufficient_credits", "insufficient_balance", "arrearage", "1113"),
        *("enforced_spend_limit_reached", "payment_required", "base_resp:1008"),
    }
)
_REFUSED_KEY_WORDS = frozenset(
    {
        *("invalid_api_key", "authentication_error", "unauthenticated", "invalidapikey"),
        *("api_key_invalid", "invalid_authentication_error", "permission_error"),
        *("permission_denied", "base_resp:1004", "base_resp:2049", "incorrect_api_key_error"),
    }
)
_BUSY_WORDS = frozenset(
    {
        *("unavailable", "slow_down", "limitrequests", "limit_requests", "1302", "1303", "1305"),
        *("base_resp:1002", "base_resp:1039", "base_resp:1041", "base_resp:2045"),
    }
)
_BUSY_WORD = re.compile(
    r"throttl|overload|too_?many_?requests|rate_?limit|resource_?exhausted|server_?busy|capacity"
    r"|queue_?full|service_?unavailable|insufficient_?system_?resource"
)
_UNKNOWN_MODEL_WORDS = frozenset(
    {*("model_not_found", "not_found_error", "modelnotfound", "model_not_exist", "1211")}
)
_REQUEST_WORDS = frozenset({"invalid_request_error", "request_too_large", "invalid_argument"})

# A context is named as such, also beside an output limit.
_CONTEXT = re.compile(
    r"maximum (context|prompt|model|input) (length|len)"
    r"|exceed\w* (the )?context (limit|length|window)"
    r"|`?inputs`? (tokens \+|must have less than)"
    r"|greater than max_model_len|exceeds the max_model_len"
    r"|context length is only",
    re.I,
)
# The output limit alone: no server with a longer context would take it.
_OUTPUT = re.compile(
    r"max_\w*tokens\b.{0,80}?(too large|must be|should be|valid range|exceeds? the limit"
    r"|is greater than|cannot exceed|maximum allowed number of output|at most|<=)"
    r"|range of `?max_\w*tokens|maximum output|completion tokens|max tokens must be",
    re.I | re.S,
)
_TOO_LONG = re.compile(
    r"(context|input|prompt|sequence)[ _](window|length|size|limit)\b[^.]{0,60}exceed"
    r"|exceed\w*\b[^.]{0,60}\bcontext"
    r"|(longer|greater|larger|more) than the (model's |models? |available |maximum )*"
    r"(context|model length|input length)"
    r"|\b(prompt|input)( \([^)]{0,60}\)| text| length| tokens?)? (is |was |are )?too (long|large)"
    r"|\binput (token count|tokens?|length)\b.{0,60}?\bexceeds?\b"
    r"|\binput token count is \d+ but"
    r"|\b(prompt|input|messages)\b[^.]{0,60}\bexceed\w* (the |our )?"
    r"(model|max|limit|configured|allowed)"
    r"|exceeded model token limit"
    r"|too many (input )?tokens: (total|size|the prompt)"
    r"|too large for model with \d+"
    r"|range of input length should be"
    r"|reduce the length of (the|your) (messages|prompt|input|conversation)"
    r"|prompt has [\d,]+ tokens.{0,40}context"
    r"|(prompt|输入|上下文|长度)[^。]{0,12}(超长|超过|超出|超限)",
    re.I | re.S,
)
_LIMITED = re.compile(
    r"\b(tokens|requests|input tokens|output tokens) per (min|minute|day|hour|second)\b"
    r"|\b(TPM|RPM|TPD|RPD)\b|rate[ -]?limit|too many requests|wait before trying again",
    re.I,
)
_UNPAID = re.compile(
    r"credit balance|insufficient (account )?(balance|credits?|funds|quota)|out of credits"
    r"|usage limits|spend(ing)? (limit|cap)|billing (hard )?limit|in arrears|overdue payment"
    r"|requires more credits|余额不足|欠费",
    re.I,
)
_QUOTA = re.compile(r"exceeded your current quota|check your plan and billing", re.I)
_FILTERED = re.compile(
    r"content[ _-]?filter|content management policy|\bflagged (for|by|as)\b|input was flagged"
    r"|inappropriate content|(output|content|prompt|request) (was )?blocked by|new_sensitive"
    r"|violat\w+ (of )?(our |the )?(usage|content|safety) (polic|guideline)",
    re.I,
)
_FLAGGED = re.compile(
    r"input was flagged|\bflagged for\b|\bcontent violates\b|failed check: SAFETY", re.I
)
_NO_MODEL = re.compile(
    r"(/\S{1,100}: )?Invalid model name passed\b|\S{1,200} is not a valid model ID\b"
)
"""Begin of the text, so that what a server quotes of a request is none."""
_OVERLOADED = re.compile(
    r"\b(is|are|currently) (overloaded|at capacity)|server overloaded|temporarily overloaded", re.I
)


_ABOUT_REQUEST = (FailureKind.BAD_REQUEST, None)
"""Statuses 400, 413, 422, and none: their words say more."""
_ABOUT_ACCOUNT = (*_ABOUT_REQUEST, FailureKind.CREDENTIALS)
_ABOUT_LOAD = (*_ABOUT_ACCOUNT, FailureKind.SERVER_ERROR, FailureKind.BUSY)


def error_kind(
    status: int | None, error: ErrorReport, retry_after_s: float | None = None
) -> FailureKind:
    """The kind of an error. `status`: of HTTP; None: the error came under status 200."""
    status = error.status if status is None else status
    kind = None if status is None else kind_of_status(status)
    found = _by_words(error, retry_after_s, kind)
    if found is not None:
        return found
    return kind or FailureKind.SERVER_ERROR


def _by_words(
    error: ErrorReport, retry_after_s: float | None, kind: FailureKind | None
) -> FailureKind | None:
    words, text = error.words, error.message
    hinted = retry_after_s is not None
    if kind is FailureKind.CREDIT:
        # OpenRouter: what is in flight uses the balance up for now.
        return FailureKind.BUSY if hinted and not words & _UNPAID_WORDS else None
    if kind is FailureKind.BUSY:
        unpaid = words & _UNPAID_WORDS or (_QUOTA.search(text) and not hinted)
        return FailureKind.CREDIT if unpaid or _UNPAID.search(text) else None
    limited = (
        words & _BUSY_WORDS
        or any(map(_BUSY_WORD.search, words))
        or (kind in _ABOUT_REQUEST and _LIMITED.search(text))
        or _OVERLOADED.search(text)
    )
    if kind in _ABOUT_ACCOUNT and (words & _UNPAID_WORDS or _UNPAID.search(text)):
        return FailureKind.CREDIT
    if kind in _ABOUT_LOAD and limited:
        return FailureKind.BUSY
    if kind in _ABOUT_REQUEST and _is_too_long(words, text):
        return FailureKind.CONTEXT_LENGTH
    filtered = _FILTERED if kind in _ABOUT_REQUEST else _FLAGGED
    if kind in _ABOUT_ACCOUNT and (words & _FILTERED_WORDS or filtered.search(text)):
        return FailureKind.CONTENT_FILTER
    if kind in _ABOUT_REQUEST and words & _REFUSED_KEY_WORDS:
        return FailureKind.CREDENTIALS
    if kind in _ABOUT_ACCOUNT and words & _UNKNOWN_MODEL_WORDS:
        return FailureKind.MODEL_NOT_FOUND
    if kind in _ABOUT_REQUEST and _NO_MODEL.match(text):
        return FailureKind.MODEL_NOT_FOUND
    if kind is None and words & _REQUEST_WORDS:
        return FailureKind.BAD_REQUEST
    return None


def _is_too_long(words: frozenset[str], text: str) -> bool:
    if words & _TOO_LONG_WORDS or _CONTEXT.search(text):
        return True
    return not _OUTPUT.search(text) and _TOO_LONG.search(text) is not None
