"""Answers of /v1/messages: one message, or the events of a stream."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.domain.generation import ChoiceDelta, Chunk, FinishReason
from gateway.domain.outcomes import Finished
from gateway.doors.anthropic.blocks import BlockEvents, Event, whole_blocks
from gateway.doors.anthropic.usage import delta_usage_fields, stop_reason, usage_fields
from scheduler.contract import Usage


def message(
    message_id: str,
    model: str,
    choices: Sequence[ChoiceDelta],
    finished: Finished,
    *,
    show_thinking: bool,
) -> Event:
    """A whole answer. `model`: as the client named it."""
    finish = choices[0].finish_reason if choices else None
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": whole_blocks(choices, show_thinking=show_thinking),
        **_stop(finish),
        "usage": usage_fields(finished.usage),
    }


def _stop(finish: FinishReason | None) -> Event:
    """Why an answer ended. Which text ended it, no upstream tells."""
    return {
        "stop_reason": stop_reason(finish),
        "stop_sequence": None,
        "stop_details": None,
        "container": None,
    }


class MessageEvents:
    """The events of one streamed answer.

    `prompt_tokens`: an estimate, since the count is known at the end only; the last event corrects
    it.
    """

    def __init__(
        self, message_id: str, model: str, prompt_tokens: int, *, show_thinking: bool
    ) -> None:
        self._message_id = message_id
        self._model = model
        self._prompt_tokens = prompt_tokens
        self._blocks = BlockEvents(show_thinking=show_thinking)
        self._finish: FinishReason | None = None

    def start(self) -> Event:
        """The first event."""
        return {
            "type": "message_start",
            "message": {
                "id": self._message_id,
                "type": "message",
                "role": "assistant",
                "model": self._model,
                "content": [],
                "stop_reason": None,
                "stop_sequence": None,
                "stop_details": None,
                "container": None,
                "usage": usage_fields(
                    Usage(prompt_tokens=self._prompt_tokens, completion_tokens=0)
                ),
            },
        }

    def add(self, chunk: Chunk) -> list[Event]:
        """The events of a chunk."""
        events: list[Event] = []
        for delta in chunk.deltas:
            self._finish = delta.finish_reason or self._finish
            events += self._blocks.add(delta)
        return events

    def end(self, finished: Finished) -> list[Event]:
        """The last events, with the usage."""
        return [
            *self._blocks.end(),
            {
                "type": "message_delta",
                "delta": _stop(self._finish),
                "usage": delta_usage_fields(finished.usage),
            },
            {"type": "message_stop"},
        ]
