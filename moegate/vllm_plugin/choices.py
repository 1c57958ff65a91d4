"""What a request of several choices had of the engine, where each choice is a request of its own.

Knows nothing of vLLM. The choices of a request are found by the id that its answer has.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from moegate.vllm_plugin.shares import Had, StepShares

MOST_REQUESTS = 4096
"""Requests whose choices are kept. Those of a client that left are never asked for."""


class HadOfChoices(NamedTuple):
    """What all choices together had. `whole_s`: from the first one in the queue to the last
    token."""

    had: Had
    whole_s: float


@dataclass
class _Choices:
    parent: str
    count: int
    choices: list[Any] = field(default_factory=list)


class Choices:
    """The choices of the requests that are answered now.

    A choice is vLLM's `RequestStateStats`, as in `StepShares`.
    """

    def __init__(self) -> None:
        self._requests: dict[str, _Choices] = {}

    def begun(self, request_id: str, parent: str, count: int, choice: Any) -> None:
        """A choice has its first token. `parent`: unique, also where clients repeat an id;
        `count`: choices of the request."""
        request = self._requests.get(request_id)
        if request is None or request.parent != parent:
            self._requests.pop(request_id, None)
            if len(self._requests) >= MOST_REQUESTS:
                del self._requests[next(iter(self._requests))]
            request = self._requests[request_id] = _Choices(parent, count)
        request.choices.append(choice)

    def ended(self, answer_id: str, shares: StepShares) -> HadOfChoices | None:
        """What the choices of an answer had, and forgets them; None: that is unknown."""
        # vLLM numbers the prompts of a completion.
        prompt_ids = (f"{answer_id}-0", f"{answer_id}-1")
        request = self._requests.pop(answer_id, None) or self._requests.pop(prompt_ids[0], None)
        if request is None or len(request.choices) != request.count:
            return None
        if prompt_ids[1] in self._requests:
            return None
        had = [shares.had(choice) for choice in request.choices]
        known = [each for each in had if each is not None]
        if len(known) < len(had):
            return None
        begin_s = min(choice.queued_ts for choice in request.choices)
        end_s = max(choice.last_token_ts for choice in request.choices)
        prefill_s, decode_s = (sum(seconds) for seconds in zip(*known, strict=True))
        return HadOfChoices(Had(prefill_s, decode_s), end_s - begin_s)
