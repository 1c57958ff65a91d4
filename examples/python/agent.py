"""An agent in one page: the model may call a tool, and every answer says what it cost.

    python examples/python/agent.py 127.0.0.1:50051 MODEL "Which day is it?"

The key comes from the environment variable MOEGATE_API_KEY. It needs `moegate.client` only, whose
own dependencies are grpcio and protobuf.
"""

from __future__ import annotations

import sys
from datetime import date

from moegate.client import Answer, Client, Message, MoegateError, Tool, ToolCall, tool_result

TODAY = Tool("today", "Today's date.", {"type": "object", "properties": {}})
MOST_TURNS = 5
MAX_OUTPUT_TOKENS = 256


def run_tool(call: ToolCall) -> str:
    """The result of a call, or what was wrong with it, for the model."""
    return date.today().isoformat() if call.name == TODAY.name else f"no tool {call.name!r}"


def account(answer: Answer) -> str:
    """One line: tokens and cost."""
    assert answer.usage is not None
    charged = None if answer.cost is None else answer.cost.charged_usd
    metered = None if answer.cost is None else answer.cost.metered_usd
    return (
        f"{answer.usage.prompt_tokens} tokens in, {answer.usage.completion_tokens} out, charged "
        f"{_usd(charged)}, metered {_usd(metered)}"
    )


def _usd(amount: object) -> str:
    return "unknown" if amount is None else f"${amount:f}"


def main(target: str, model: str, prompt: str) -> None:
    """Runs turns until the model calls no tool."""
    messages = [Message("user", prompt)]
    with Client(target) as client:
        for _ in range(MOST_TURNS):
            with client.stream(
                model, messages, tools=[TODAY], max_output_tokens=MAX_OUTPUT_TOKENS
            ) as stream:
                for piece in stream:
                    print(piece.text, end="", flush=True)
            print(f"\n{account(stream.answer)}")
            messages.append(stream.answer.message())
            if not stream.answer.tool_calls:
                break
            messages += [tool_result(call, run_tool(call)) for call in stream.answer.tool_calls]


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except MoegateError as error:
        again = "" if error.retry_after_s is None else f" (try again in {error.retry_after_s:g} s)"
        sys.exit(f"{error}{again}")
