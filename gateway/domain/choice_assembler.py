"""Assembles the deltas of a stream into whole choices, for a unary response."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.domain.generation import (
    ChoiceDelta,
    FinishReason,
    Signature,
    TokenLogprob,
    ToolCall,
)


@dataclass(slots=True)
class _Call:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)
    signatures: list[Signature] = field(default_factory=list)


@dataclass(slots=True)
class _Choice:
    texts: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    tool_calls: dict[int, _Call] = field(default_factory=dict)
    finish_reason: FinishReason | None = None
    signatures: list[Signature] = field(default_factory=list)
    matched_stop: str = ""


class ChoiceAssembler:
    """Collects the deltas of every choice of one answer."""

    def __init__(self) -> None:
        self._choices: dict[int, _Choice] = {}

    def add(self, delta: ChoiceDelta) -> None:
        """Appends a delta to the choice with its index."""
        choice = self._choices.setdefault(delta.index, _Choice())
        choice.texts.append(delta.text)
        choice.reasoning.append(delta.reasoning_text)
        choice.logprobs.extend(delta.logprobs)
        choice.signatures.extend(delta.signatures)
        choice.finish_reason = delta.finish_reason or choice.finish_reason
        choice.matched_stop = delta.matched_stop or choice.matched_stop
        for piece in delta.tool_calls:
            # The first delta of a tool call has its id and name; the arguments span many deltas.
            call = choice.tool_calls.setdefault(piece.index, _Call())
            call.id = call.id or piece.id
            call.name = call.name or piece.name
            call.arguments.append(piece.arguments_json)
            call.signatures.extend(piece.signatures)

    def choices(self) -> list[ChoiceDelta]:
        """Returns every choice as one delta, sorted by index."""
        return [
            ChoiceDelta(
                index=index,
                text="".join(choice.texts),
                reasoning_text="".join(choice.reasoning),
                tool_calls=tuple(
                    ToolCall(
                        index=number,
                        id=call.id,
                        name=call.name,
                        arguments_json="".join(call.arguments),
                        signatures=tuple(call.signatures),
                    )
                    for number, call in sorted(choice.tool_calls.items())
                ),
                logprobs=tuple(choice.logprobs),
                finish_reason=choice.finish_reason,
                signatures=tuple(choice.signatures),
                matched_stop=choice.matched_stop,
            )
            for index, choice in sorted(self._choices.items())
        ]
