"""Text as servers send it: see `stream_cases.py`."""

from __future__ import annotations

from tests.gateway.upstream.stream_cases import (
    anthropic,
    block,
    data,
    event,
    of,
    openai,
    said,
    usage,
)

TEXT = [
    *(
        openai(
            f"reasoning as {name}",
            of({name: "Hm"}),
            of({"content": "Hi"}),
            reasoning="Hm",
            text="Hi",
        )
        for name in ("reasoning", "reasoning_content", "reasoning_text", "thinking")
    ),
    openai(
        "reasoning under all of its names",
        of(
            {"reasoning": "Hm", "reasoning_content": "Hm", "reasoning_text": "Hm", "thinking": "Hm"}
        ),
        of({"content": "Hi"}),
        reasoning="Hm",
        text="Hi",
    ),
    openai(
        "a byte order mark before the JSON",
        of({"content": "Hi"}).replace("data: ", "data: \ufeff"),
        text="Hi",
    ),
    openai(
        "thinking as a text, text beside it in one list",
        of({"content": [{"type": "thinking", "thinking": "Hm"}, {"type": "text", "text": "Hi"}]}),
        reasoning="Hm",
        text="Hi",
    ),
    openai("texts in a list", of({"content": ["Hi", " there"]}), text="Hi there"),
    openai(
        "one part in place of a list", of({"content": {"type": "text", "text": "Hi"}}), text="Hi"
    ),
    openai(
        "parts of reasoning in a list",
        of({"reasoning_content": [{"type": "text", "text": "Hm"}]}),
        of({"content": "Hi"}),
        reasoning="Hm",
        text="Hi",
    ),
    openai(
        "parts of an unknown type",
        of(
            {
                "content": [
                    {"type": "reference", "reference_ids": [1]},
                    {"type": "text", "text": "Hi"},
                ]
            }
        ),
        text="Hi",
    ),
    openai(
        "output_text parts", of({"content": [{"type": "output_text", "text": "Hi"}]}), text="Hi"
    ),
    openai(
        "a message in place of a delta",
        data({"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}}]}),
        text="Hi",
    ),
    openai(
        "a message beside a delta without output",
        data(
            {
                "choices": [
                    {"index": 0, "delta": {"role": "assistant"}, "message": {"content": "Hi"}}
                ]
            }
        ),
        text="Hi",
    ),
    openai(
        "the whole message so far beside each delta",
        *(
            data(
                {"choices": [{"index": 0, "delta": {"content": new}, "message": {"content": all_}}]}
            )
            for new, all_ in (("H", "H"), ("i", "Hi"))
        ),
        data({"choices": [{"index": 0, "delta": {}, "message": {"content": "Hi"}}]}),
        text="Hi",
    ),
    openai(
        "reasoning as a list of parts",
        of({"reasoning": [{"type": "text", "text": "Hm"}]}),
        of({"content": "Hi"}),
        reasoning="Hm",
        text="Hi",
    ),
    openai(
        "half a character in reasoning",
        of({"reasoning_content": "a\ud83d"}),
        of({"reasoning_content": "\ude00"}),
        of({"content": "b"}),
        reasoning="a\U0001f600",
        text="b",
    ),
    openai(
        "half a character, then an event without text",
        of({"content": "\ud83d"}),
        of({"role": "assistant"}),
        of({"content": "\ude00"}),
        text="\U0001f600",
    ),
    openai("half a character at the end", of({"content": "a\ud83d"}), text="a\ufffd"),
    openai(
        "half a character, then another",
        of({"content": "a\ud83d"}),
        of({"content": "b"}),
        text="a\ufffdb",
    ),
    openai("half a character at the beginning", of({"content": "\ude00b"}), text="\ufffdb"),
    openai(
        "bytes that are not UTF-8",
        'data: {"choices":[{"index":0,"delta":{"content":"a\udcffb"}}]}\n\n',
        text="a\ufffdb",
    ),
    openai(
        "CR at the line ends", *(f.replace("\n", "\r") for f in (of({"content": "a"}),)), text="a"
    ),
    openai(
        "a last event without its end, in two pieces",
        of({"content": "hi"}),
        of({}, finish_reason="stop").rstrip("\n")[:30],
        of({}, finish_reason="stop").rstrip("\n")[30:],
        end=False,
        text="hi",
        estimated=True,
    ),
    openai(
        "a last usage without an empty line",
        of({"content": "hi"}),
        of({}, finish_reason="stop"),
        usage(77, 5).rstrip("\n"),
        end=False,
        text="hi",
        usage=(77, 5),
    ),
    openai(
        "a last event that is cut",
        of({"content": "hi"}),
        of({}, finish_reason="stop").rstrip("\n")[:-5],
        end=False,
        text="hi",
        failure="server_error",
    ),
    openai(
        "NaN, Infinity and 1e999 as log-probabilities",
        *(
            'data: {"choices":[{"index":0,"delta":{"content":"a"},"logprobs":{"content":['
            f'{{"token":"a","logprob":{number}}}]}}}}]}}\n\n'
            for number in ("NaN", "Infinity", "1e999", '"-1"', "null")
        ),
        text="aaaaa",
    ),
    openai(
        "log-probabilities of another shape",
        of({"content": "a"}, logprobs=[1, "x"]),
        of({"content": "b"}, logprobs={"content": "x"}),
        of({"content": "c"}, logprobs="none"),
        text="abc",
    ),
    openai("a content that is a number", of({"content": 7}), of({"content": "a"}), text="a"),
    openai(
        "choices with a null and a text",
        data({"choices": [None, "x"]}),
        of({"content": "a"}),
        text="a",
    ),
    openai(
        "delta as a text",
        data({"choices": [{"index": 0, "delta": "x"}]}),
        of({"content": "a"}),
        text="a",
    ),
    openai(
        "NaN in a field that nobody reads",
        'data: {"created": NaN, "choices": []}\n\n',
        of({"content": "a"}),
        text="a",
    ),
    openai("index null", data({"choices": [{"index": None, "delta": {"content": "a"}}]}), text="a"),
    openai(
        "index as text", data({"choices": [{"index": "0", "delta": {"content": "a"}}]}), text="a"
    ),
    openai(
        "a choice beyond those requested",
        of({"content": "a"}),
        data({"choices": [{"index": 3, "delta": {"content": "b"}}]}),
        text="a",
    ),
    openai(
        "comments, events without data and ids",
        ": ping\n\n",
        "event: ping\n\n",
        "id: 7\n\n",
        of({"content": "a"}),
        text="a",
    ),
    *(
        openai(
            f"{word} in place of an event",
            f"data: {word}\n\n",
            of({"content": "a"}),
            f"event: ping\ndata: {word}\n\n",
            of({"content": "b"}),
            text="ab",
        )
        for word in ("ping", '"ping"', "null", "[]", ": keep-alive", "Heartbeat", "true", "1764")
    ),
    *(
        anthropic(
            f"{word} in place of an event", f"event: ping\ndata: {word}\n\n", said("a"), text="a"
        )
        for word in ("ping", "null", "[]")
    ),
    openai(
        "events in an array",
        "data: [" + of({"content": "a"})[6:-2] + "," + of({"content": "b"})[6:-2] + "]\n\n",
        text="ab",
    ),
    openai(
        "events without an empty line between them",
        of({"content": "a"})[:-1],
        of({"content": "b"})[:-1],
        of({"content": "c"}),
        text="abc",
    ),
    openai("events named message_chunk", "event: message_chunk\n" + of({"content": "a"}), text="a"),
    openai(
        "[DONE] with spaces",
        of({"content": "a"}),
        of({}, finish_reason="stop"),
        usage(),
        "data:  [DONE] \n\n",
        of({"content": "late"}),
        end=False,
        text="a",
        usage=(10, 3),
    ),
    anthropic(
        "a block of an unknown type with text",
        block(0, "hologram", {"type": "text_delta", "text": "no"}, text="no"),
        said("yes", 1),
        text="yes",
    ),
    anthropic(
        "tools of the server that run code",
        block(
            0,
            "server_tool_use",
            {"type": "input_json_delta", "partial_json": '{"code"'},
            id="s",
            name="bash",
        ),
        block(1, "bash_code_execution_tool_result", content={"type": "x"}),
        said("ok", 2),
        text="ok",
    ),
    anthropic(
        "an MCP tool of the server",
        block(
            0, "mcp_tool_use", {"type": "input_json_delta", "partial_json": "{}"}, id="m", name="n"
        ),
        said("ok", 1),
        text="ok",
    ),
    anthropic(
        "pings and unknown events",
        event("ping"),
        event("aurora", index=3, delta={"x": 1}),
        said("ok"),
        event("ping"),
        text="ok",
    ),
    anthropic(
        "half a character",
        block(
            0,
            "text",
            {"type": "text_delta", "text": "a\ud83d"},
            {"type": "text_delta", "text": "\ude00"},
            text="",
        ),
        text="a\U0001f600",
    ),
    anthropic(
        "text without its block's start",
        event("content_block_delta", index=0, delta={"type": "text_delta", "text": "ok"}),
        text="ok",
    ),
    anthropic(
        "events whose type is in their name only",
        *(
            each.replace('"type": "content_block_', '"kind": "content_block_')
            for each in (said("ok"), block(1, "tool_use", id="t", name="now", input={}))
        ),
        stop="tool_use",
        text="ok",
        calls=[("now", {})],
        finish="TOOL_CALLS",
    ),
    anthropic(
        "a text that is a number",
        block(
            0,
            "text",
            {"type": "text_delta", "text": 5},
            {"type": "text_delta", "text": "ok"},
            text="",
        ),
        text="ok",
    ),
]
