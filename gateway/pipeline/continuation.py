"""Decides whether an answer that broke off may be continued, and builds the continuing request.

Only plain text is continued, and only if no requested feature would break where the two answers
join. The next placement receives the text so far as the beginning of the assistant's message, and
the remaining output limit.
"""

from __future__ import annotations

from collections.abc import Collection

from msgspec import structs

from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.generation import Chat, Generation, Message, Role
from gateway.pipeline.active_request import Branch
from scheduler.contract import Request

_MENDABLE = frozenset(
    {
        *(FailureKind.CONNECT, FailureKind.BUSY, FailureKind.SERVER_ERROR),
        *(FailureKind.PROTOCOL, FailureKind.TIMEOUT),
    }
)


def may_be_continued(generation: Generation) -> bool:
    """Returns whether an answer to this generation could be continued at all."""
    if generation.choices > 1 or generation.logprobs is not None or generation.stop:
        return False
    if generation.min_tokens or generation.stop_token_ids:
        return False
    if generation.sampling.seed is not None or generation.ignore_eos:
        return False
    match generation.input:
        case Chat() as chat:
            formed = chat.json_object or chat.json_schema or chat.constraint
            return not (chat.tools or formed or chat.reasoning)
        case str():
            return True
        case _:
            return False


def is_continuable(branch: Branch, failure: UpstreamFailure) -> bool:
    """Returns whether an answer that failed like this may be continued. An answer is continued at
    most once."""
    active = branch.active
    return (
        active.text is not None
        and not active.broken
        and failure.kind in _MENDABLE
        and branch.committed
        and branch.output_tokens < branch.generation.max_output_tokens
        and any(text.strip() for text in active.text)
    )


def continuation(
    branch: Branch, failure: UpstreamFailure, unable: Collection[str]
) -> tuple[Request, Generation] | None:
    """Returns the continuing request and generation; None if the answer cannot be continued.

    `unable`: placements that cannot continue an answer.
    """
    if not is_continuable(branch, failure):
        return None
    text = "".join(branch.active.text or ())
    left_tokens = branch.generation.max_output_tokens - branch.output_tokens
    asked = branch.generation
    match asked.input:
        case Chat() as chat:
            said = Message(role=Role.ASSISTANT, parts=(text,))
            rest = structs.replace(
                asked,
                input=structs.replace(chat, messages=(*chat.messages, said)),
                continues=True,
                max_output_tokens=left_tokens,
            )
        case str(prompt):
            rest = structs.replace(asked, input=prompt + text, max_output_tokens=left_tokens)
        case _:
            return None
    request = branch.request
    return (
        structs.replace(
            request,
            request_id=f"{request.request_id}~continued",
            prompt_tokens=request.prompt_tokens + branch.output_tokens,
            max_output_tokens=left_tokens,
            unsupported_by=request.unsupported_by | frozenset(unable),
        ),
        rest,
    )
