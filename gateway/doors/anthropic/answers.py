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
    stops: Sequence[str],
    show_thinking: bool,
) -> Event:
    """A whole answer. `model`: as the client named it; `stops`: the request's `stop_sequences`."""
    finish, matched = None, ""
    if choices:
        finish, matched = choices[0].finish_reason, choices[0].matched_stop
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": whole_blocks(choices, show_thinking=show_thinking),
        **_stop(finish, matched, stops),
        "usage": usage_fields(finished.usage),
    }


def _stop(finish: FinishReason | None, matched: str, stops: Sequence[str]) -> Event:
    """Why an answer ended. `matched`: the text that ended it, as the upstream tells. Some upstreams
    have other words in that place."""
    by_text = finish is FinishReason.STOP and matched in stops
    return {
        "stop_reason": "stop_sequence" if by_text else stop_reason(finish),
        "stop_sequence": matched if by_text else None,
        "stop_details": None,
        "container": None,
    }


class MessageEvents:
    """The events of one streamed answer.

    `prompt_tokens`: an estimate, since the count is known at the end only; the last event corrects
    it. `stops`: the request's `stop_sequences`.
    """

    def __init__(
        self,
        message_id: str,
        model: str,
        prompt_tokens: int,
        *,
        stops: Sequence[str],
        show_thinking: bool,
    ) -> None:
        self._message_id = message_id
        self._model = model
        self._prompt_tokens = prompt_tokens
        self._blocks = BlockEvents(show_thinking=show_thinking)
        self._stops = stops
        self._finish: FinishReason | None = None
        self._matched = ""

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
            self._matched = delta.matched_stop or self._matched
            events += self._blocks.add(delta)
        return events

    def end(self, finished: Finished) -> list[Event]:
        """The last events, with the usage."""
        return [
            *self._blocks.end(),
            {
                "type": "message_delta",
                "delta": _stop(self._finish, self._matched, self._stops),
                "usage": delta_usage_fields(finished.usage),
            },
            {"type": "message_stop"},
        ]
