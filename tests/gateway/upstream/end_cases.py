"""Ends of answers, good and bad: see `stream_cases.py`."""

from __future__ import annotations

from tests.gateway.upstream.stream_cases import (
    DONE,
    Case,
    anthropic,
    data,
    event,
    of,
    openai,
    said,
    usage,
)


def words(dialect: str) -> list[Case]:
    """Finish words in both dialects."""
    meanings: dict[str, list[object]] = {
        "STOP": [
            "eos_token",
            "EOS",
            "STOP",
            "COMPLETE",
            "stop_sequence",
            "eosFound",
            "end",
            "FINISH_REASON_STOP",
            "pause_turn",
            "done",
            {"type": "stop", "matched": 2},
        ],
        "LENGTH": [
            "MAX_TOKENS",
            "length",
            "max_length",
            "model_context_window_exceeded",
            "maxTokens",
            "model_length",
            "token_limit",
            "max_output_tokens",
            "context_length_exceeded",
        ],
        "CONTENT_FILTER": [
            "SAFETY",
            "sensitive",
            "PROHIBITED_CONTENT",
            "RECITATION",
            "refusal",
            "content_filtered",
            "guardrail_intervened",
            "BLOCKLIST",
        ],
    }
    found = []
    for meaning, spellings in meanings.items():
        for word in spellings:
            name = f"{dialect}: {word}"
            if dialect == "openai":
                case = openai(name, of({"content": "hi"}), word=word, text="hi", finish=meaning)
            else:
                case = anthropic(name, said("hi"), stop=word, text="hi", finish=meaning)  # type: ignore[arg-type]
            found.append(case)
    for word in ("flux", "x" * 5000, "Ende", "\U0001f600"):
        name = f"{dialect}: unknown {word[:9]}"
        if dialect == "openai":
            case = openai(
                name, of({"content": "hi"}), word=word, text="hi", deviations=["finish_word"]
            )
        else:
            case = anthropic(name, said("hi"), stop=word, text="hi", deviations=["finish_word"])
        found.append(case)
    return found


NO_ERRORS: list[object] = [
    {"code": None, "message": None, "type": ""},
    {"code": 0, "message": "ok"},
    {"code": "200", "message": "Success", "details": []},
    {"error": {"code": 0}},
    "",
    [],
    False,
]
"""Error fields that tell none."""

FINISH = [
    *words("openai"),
    *words("anthropic"),
    openai(
        "an empty finish word with every event",
        of({"content": "a"}, finish_reason=""),
        of({"content": "b"}, finish_reason="null"),
        text="ab",
    ),
    openai("a finish word that is a number", of({"content": "a"}, finish_reason=7), text="a"),
    *(
        openai(
            f"no other finish word than {word!r}",
            of({"content": "a"}),
            word=word,
            text="a",
            finish=meaning,
        )
        for word, meaning in (
            (1, "STOP"),
            (True, "STOP"),
            (2.5, "STOP"),
            (["length"], "LENGTH"),
            ({"type": "length", "length": 8}, "LENGTH"),
        )
    ),
    *(
        openai(
            f"an error that tells none: {error!r}",
            data(
                {"choices": [{"index": 0, "delta": {"content": "a"}}], "error": error},
            ),
            text="a",
        )
        for error in NO_ERRORS
    ),
    openai(
        "no empty lines between events, the last one whole",
        *(part.removesuffix("\n") for part in (of({"content": "a"}), usage())),
        of({}, finish_reason="stop").removesuffix("\n"),
        DONE.removesuffix("\n"),
        end=False,
        text="a",
        usage=(10, 3),
    ),
    openai(
        "a proxy's page after a complete answer",
        of({"content": "a"}),
        of({}, finish_reason="stop"),
        usage(),
        data("<html>502</html>"),
        end=False,
        text="a",
        usage=(10, 3),
    ),
    openai(
        "half an event after a complete answer",
        of({"content": "a"}),
        of({}, finish_reason="stop"),
        usage(),
        'data: {"choi\n\n',
        end=False,
        text="a",
        usage=(10, 3),
    ),
    openai(
        "a finish word that is a failure after a complete answer",
        of({"content": "a"}),
        of({}, finish_reason="stop"),
        of({}, finish_reason="error"),
        usage(),
        DONE,
        end=False,
        text="a",
        usage=(10, 3),
    ),
    anthropic(
        "an error after a complete answer",
        said("a"),
        event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 3}),
        event("error", error={"type": "api_error", "message": "late"}),
        text="a",
    ),
    openai(
        "two of three choices",
        data(
            {
                "choices": [
                    {"index": i, "delta": {"content": "a"}, "finish_reason": "stop"} for i in (0, 1)
                ]
            }
        ),
        usage(),
        DONE,
        end=False,
        text="a",
        choices=3,
        missing=1,
        usage=(10, 3),
    ),
    openai(
        "a choice missing, without an end marker",
        of({"content": "a"}),
        of({}, finish_reason="stop"),
        usage(),
        end=False,
        text="a",
        choices=2,
        missing=1,
        usage=(10, 3),
    ),
]

FAILURES = [
    *(
        openai(f"the word {word}", of({"content": "hi"}), word=word, text="hi", failure=kind)
        for word, kind in (
            ("error", "server_error"),
            ("abort", "server_error"),
            ("NETWORK_ERROR", "server_error"),
            ("overloaded", "busy"),
        )
    ),
    openai(
        "a choice cut in the middle",
        of({"content": "a"}),
        data(
            {
                "choices": [
                    {"index": 0, "delta": {}, "finish_reason": "stop"},
                    {"index": 1, "delta": {"content": "b"}},
                ]
            }
        ),
        DONE,
        end=False,
        text="a",
        choices=2,
        failure="server_error",
    ),
    openai(
        "an error with a code beside the message",
        of({"content": "a"}),
        data({"code": "ServiceUnavailable", "message": "try later"}),
        end=False,
        text="a",
        failure="busy",
    ),
    openai(
        "MiniMax's status",
        of({"content": "a"}),
        data({"choices": None, "base_resp": {"status_code": 1002, "status_msg": "rate limit"}}),
        end=False,
        text="a",
        failure="busy",
    ),
    openai(
        "GLM's code of a rate limit",
        of({"content": "a"}),
        data({"error": {"code": "1302", "message": "Too many requests, rate limit reached"}}),
        end=False,
        text="a",
        failure="busy",
    ),
    openai(
        "no empty lines between events, the last one cut",
        of({"content": "a"}).removesuffix("\n"),
        of({}, finish_reason="stop").removesuffix('"}]}\n\n'),
        end=False,
        text="a",
        failure="server_error",
    ),
    openai(
        "an error as the only text",
        of({"content": "a"}),
        data({"detail": "it broke"}),
        end=False,
        text="a",
        failure="server_error",
    ),
    openai(
        "an error in an array",
        of({"content": "a"}),
        data([{"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}]),
        end=False,
        text="a",
        failure="busy",
    ),
    openai(
        "an error as a text",
        of({"content": "a"}),
        data({"error": "it broke"}),
        end=False,
        text="a",
        failure="server_error",
    ),
    openai(
        "a page of a proxy",
        of({"content": "a"}),
        "<html><body>502 Bad Gateway</body></html>\n\n",
        end=False,
        text="a",
        failure="server_error",
    ),
    openai(
        "usage before any finish word",
        of({"content": "a"}),
        usage(),
        DONE,
        end=False,
        text="a",
        failure="server_error",
    ),
    anthropic(
        "an error without a name",
        said("a"),
        "event: error\n" + data({"code": "Throttling", "message": "slow down"}),
        text="a",
        failure="busy",
    ),
    anthropic(
        "an error of OpenAI's shape",
        said("a"),
        data({"error": {"type": "overloaded_error", "message": "no"}}),
        text="a",
        failure="busy",
    ),
    anthropic(
        "the end before a stop reason",
        said("a"),
        event("message_stop"),
        text="a",
        failure="server_error",
    ),
    anthropic(
        "a stop reason that is a failure",
        said("a"),
        stop="network_error",
        text="a",
        failure="server_error",
    ),
]
