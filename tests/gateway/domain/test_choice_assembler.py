"""Pieces of a stream, joined."""

from __future__ import annotations

from gateway.domain.choice_assembler import ChoiceAssembler
from gateway.domain.generation import ChoiceDelta, FinishReason, TokenLogprob, ToolCall


def test_pieces_join_by_choice_and_by_call() -> None:
    answer = ChoiceAssembler()
    answer.add(ChoiceDelta(index=1, text="b"))
    answer.add(ChoiceDelta(index=0, text="a", logprobs=(TokenLogprob(token="a", logprob=-1.0),)))
    answer.add(
        ChoiceDelta(
            index=0, tool_calls=(ToolCall(index=1, id="c1", name="f", arguments_json='{"x'),)
        )
    )
    answer.add(
        ChoiceDelta(
            index=0,
            reasoning_text="why",
            tool_calls=(
                ToolCall(index=1, arguments_json='": 1}'),
                ToolCall(index=0, id="c0", name="g", arguments_json="{}"),
            ),
        )
    )
    answer.add(ChoiceDelta(index=1, text="B", finish_reason=FinishReason.LENGTH))
    answer.add(ChoiceDelta(index=0, finish_reason=FinishReason.TOOL_CALLS))
    first, second = answer.choices()
    assert (first.index, first.text, first.reasoning_text) == (0, "a", "why")
    assert first.finish_reason is FinishReason.TOOL_CALLS
    assert first.tool_calls == (
        ToolCall(index=0, id="c0", name="g", arguments_json="{}"),
        ToolCall(index=1, id="c1", name="f", arguments_json='{"x": 1}'),
    )
    assert len(first.logprobs) == 1
    assert (second.text, second.finish_reason) == ("bB", FinishReason.LENGTH)
