"""What remotes want in earlier turns of the model, where providers differ.

DeepSeek and Moonshot refuse a turn with tool calls and without its reasoning, of which the empty
text suffices. Gemini refuses a tool call without a signature, but takes a placeholder for calls
that another server made. Strict servers refuse fields that they do not know, so all others get
none.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from gateway.config.remote import HistoryConfig, ReasoningField, ReasoningTurns, RemoteApi
from gateway.domain.generation import Message, Role

NO_REASONING = HistoryConfig()
_REASONING_CONTENT = HistoryConfig(reasoning_field=ReasoningField.REASONING_CONTENT)
_KNOWN_CONTENT = HistoryConfig(
    reasoning_field=ReasoningField.REASONING_CONTENT, reasoning_turns=ReasoningTurns.KNOWN
)
_HOSTS: Mapping[tuple[RemoteApi, str], HistoryConfig] = {
    (RemoteApi.OPENAI, "api.deepseek.com"): _REASONING_CONTENT,
    (RemoteApi.ANTHROPIC, "api.deepseek.com"): HistoryConfig(
        reasoning_field=ReasoningField.THINKING
    ),
    (RemoteApi.OPENAI, "api.moonshot.ai"): _REASONING_CONTENT,
    (RemoteApi.OPENAI, "api.moonshot.cn"): _REASONING_CONTENT,
    (RemoteApi.OPENAI, "api.z.ai"): _KNOWN_CONTENT,
    (RemoteApi.OPENAI, "open.bigmodel.cn"): _KNOWN_CONTENT,
    (RemoteApi.OPENAI, "openrouter.ai"): HistoryConfig(
        reasoning_field=ReasoningField.REASONING, reasoning_turns=ReasoningTurns.KNOWN
    ),
    (RemoteApi.OPENAI, "generativelanguage.googleapis.com"): HistoryConfig(
        placeholder_signature="skip_thought_signature_validator"
    ),
}
"""What is known of hosts; the configuration of a remote replaces it."""


def usual_history(api: RemoteApi, url: str) -> HistoryConfig:
    """What the host of a remote wants, as far as it is known here."""
    return _HOSTS.get((api, urlsplit(url).hostname or ""), NO_REASONING)


def reasoning_text(message: Message, history: HistoryConfig) -> str | None:
    """The reasoning text to send with a message; None: the field is left out."""
    if message.role is not Role.ASSISTANT or history.reasoning_field is ReasoningField.NONE:
        return None
    match history.reasoning_turns:
        case ReasoningTurns.KNOWN:
            wanted = bool(message.reasoning_text)
        case ReasoningTurns.TOOL_CALLS:
            wanted = bool(message.tool_calls)
        case ReasoningTurns.ALWAYS:
            wanted = True
    return message.reasoning_text if wanted else None
