"""Frames into chunks: what real vLLM sent, and what other servers are known to send."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.domain.choice_assembler import ChoiceAssembler
from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.generation import (
    ChoiceDelta,
    Chunk,
    DeviationKind,
    FinishReason,
    TokenLogprob,
    ToolCall,
)
from gateway.upstream.http.sse import SseReader
from gateway.upstream.openai.stream import StreamDecoder
from scheduler.contract import Usage

GOLDEN = Path(__file__).resolve().parents[3] / "golden" / "vllm_0_32"
RUST_GOLDEN = GOLDEN.with_name("vllm_0_33_rust")


def golden(name: str, folder: Path = GOLDEN) -> list[bytes]:
    return SseReader().feed((folder / name).read_bytes())


def decoder(choices: int = 1, vllm: bool = True) -> StreamDecoder:
    return StreamDecoder(choices, prompt_tokens=lambda: 77, usage_by_choice=vllm)


def frame(*choices: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps({"id": "x", "model": "up", "choices": choices, **fields}).encode()


def text(text: str | None, index: int = 0, finish: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": {"content": text}, "finish_reason": finish}


def delta(**fields: Any) -> dict[str, Any]:
    return {"index": 0, "delta": fields, "finish_reason": None}


def usage(prompt: int, completion: int, **fields: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, **fields}


END = text("", finish="stop")


def run(*payloads: bytes, choices: int = 1, vllm: bool = True) -> tuple[list[ChoiceDelta], Chunk]:
    """The whole choices and the last chunk, fed one payload at a time, and the same at once."""
    apart, together = decoder(choices, vllm), decoder(choices, vllm)
    answers = ChoiceAssembler(), ChoiceAssembler()
    for payload in payloads:
        _add(answers[0], apart.feed([payload]))
    _add(answers[1], together.feed(payloads))
    assert answers[0].choices() == answers[1].choices()
    last = apart.end()
    assert last == together.end()
    return answers[0].choices(), last


def _add(answer: ChoiceAssembler, chunk: Chunk | None) -> None:
    for delta in chunk.deltas if chunk else ():
        answer.add(delta)


def usage_of(*payloads: bytes, choices: int = 1, vllm: bool = False) -> Usage | None:
    return run(*payloads, choices=choices, vllm=vllm)[1].usage


def failure_of(*payloads: bytes, choices: int = 1) -> UpstreamFailure:
    state = decoder(choices)
    state.feed(payloads)
    with pytest.raises(UpstreamFailure) as caught:
        state.end()
    return caught.value


@pytest.mark.parametrize(
    ("name", "finish", "expected"),
    [
        (
            "chat_stream.sse",
            "length",
            Usage(prompt_tokens=15, completion_tokens=8, cached_tokens=0),
        ),
        (
            "chat_stream_continuous_usage.sse",
            "length",
            Usage(prompt_tokens=15, completion_tokens=8, cached_tokens=0),
        ),
        (
            "chat_stream_cached.sse",
            "length",
            Usage(prompt_tokens=853, completion_tokens=8, cached_tokens=768),
        ),
        (
            "chat_stream_stop.sse",
            "stop",
            Usage(prompt_tokens=15, completion_tokens=3, cached_tokens=0),
        ),
        ("chat_stream_eos.sse", "stop", None),
        ("chat_stream_multibyte.sse", "stop", None),
        ("chat_stream_logprobs.sse", "length", None),
        ("completions_stream.sse", "length", None),
        ("completions_stream_logprobs.sse", "length", None),
    ],
)
def test_what_vllm_sent(name: str, finish: str, expected: Usage | None) -> None:
    payloads = golden(name)
    [choice], last = run(*payloads)
    frames = [json.loads(payload) for payload in payloads[:-1]]
    texts = [
        c.get("text") or c.get("delta", {}).get("content") for f in frames for c in f["choices"]
    ]
    assert choice.text == "".join(t or "" for t in texts)
    assert choice.finish_reason == finish
    assert last.model == "tiny-moe"
    assert last.usage is not None
    if expected is not None:
        assert last.usage == expected
    final = frames[-1]["usage"]
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (
        final["prompt_tokens"],
        final["completion_tokens"],
    )


TIMES = {"time_to_first_token_ms": 40.5, "generation_time_ms": 900, "queue_time_ms": 0.5}


@pytest.mark.parametrize(
    ("metrics", "engine_s"),
    [
        ({**TIMES, "mean_itl_ms": 5.0, "tokens_per_second": None}, 0.941),
        (None, None),
        ({}, None),
        ({**TIMES, "queue_time_ms": None}, None),
        ({**TIMES, "generation_time_ms": -1.0}, None),
        ({**TIMES, "generation_time_ms": "900"}, None),
        ({**TIMES, "generation_time_ms": True}, None),
        ({**TIMES, "generation_time_ms": 10**400}, None),
        ([1], None),
        ("fast", None),
    ],
)
def test_how_long_vllm_worked_on_it(metrics: object, engine_s: float | None) -> None:
    *frames, usage, done = golden("chat_stream.sse")
    told = json.loads(usage) | {"metrics": metrics}
    _, last = run(*frames, json.dumps(told).encode(), done)
    if engine_s is None:
        assert last.engine is None
    else:
        assert last.engine is not None
        assert last.engine.whole_s == pytest.approx(engine_s)
    assert last.usage is not None


@pytest.mark.parametrize(
    ("name", "finish"),
    [
        ("chat_stream.sse", "length"),
        ("chat_stream_continuous_usage.sse", "length"),
        ("chat_stream_cached.sse", "length"),
        ("chat_stream_stop.sse", "stop"),
        ("chat_stream_eos.sse", "stop"),
        ("chat_stream_multibyte.sse", "stop"),
        ("chat_stream_logprobs.sse", "length"),
        ("chat_stream_choice.sse", "stop"),
        ("completions_stream.sse", "length"),
        ("completions_stream_logprobs.sse", "length"),
    ],
)
def test_both_front_ends_of_vllm_say_the_same(name: str, finish: str) -> None:
    [choice], last = run(*golden(name, RUST_GOLDEN))
    [of_python], other = run(*golden(name))
    assert choice.finish_reason == of_python.finish_reason == finish
    assert len(choice.logprobs) == len(of_python.logprobs)
    assert last.usage is not None
    assert other.usage is not None
    counts = ("prompt_tokens", "completion_tokens", "cached_tokens")
    if name != "chat_stream_choice.sse":  # which of the two texts is chance
        assert choice.text == of_python.text
        for count in counts:
            assert getattr(last.usage, count) == getattr(other.usage, count), count
    assert last.usage.reasoning_tokens == 0
    assert not last.deviations


@pytest.mark.parametrize("name", ["chat_stream_tool_named.sse", "chat_stream_tool_required.sse"])
def test_a_tool_call_of_the_front_end_in_rust(name: str) -> None:
    [choice], last = run(*golden(name, RUST_GOLDEN))
    [call] = choice.tool_calls
    assert call.name == "weather"
    assert json.loads(call.arguments_json)["city"] in ("Paris", "Rome")
    assert not last.deviations


def test_the_front_end_in_rust_refuses_a_form_within_the_stream() -> None:
    failure = failure_of(*golden("chat_stream_bad_regex.sse", RUST_GOLDEN))
    assert failure.kind is FailureKind.BAD_REQUEST


def test_vllm_counts_exactly_with_each_frame() -> None:
    state = decoder()
    seen = []
    for payload in golden("chat_stream_continuous_usage.sse"):
        chunk = state.feed([payload])
        seen.append(chunk and (chunk.output_tokens, len(chunk.deltas)))
    # The role is no news; the fourth token has no text yet, but it counts.
    tokens = [None, (1, 1), (2, 1), (3, 1), (4, 0), (5, 1), (6, 1), (7, 1), (8, 1), None, None]
    assert seen == tokens
    assert state.ended
    assert state.finished


def test_two_choices_of_vllm() -> None:
    choices, last = run(*golden("chat_stream_n2.sse"), choices=2)
    assert [choice.index for choice in choices] == [0, 1]
    assert choices[0].text.startswith("botheanooborn")
    assert choices[1].text.startswith("onfealgrer")
    assert last.usage == Usage(prompt_tokens=15, completion_tokens=16, cached_tokens=0)


def test_continuous_usage_of_vllm_counts_the_frames_own_choice() -> None:
    payloads = [
        frame(text("", 0), usage=usage(15, 0)),
        frame(text("", 1), usage=usage(15, 0)),
        frame(text("a", 0), usage=usage(15, 1)),
        frame(text("b", 1), usage=usage(15, 1)),
        frame(text("cd", 0, "length"), usage=usage(15, 3)),
        frame(text("e", 1, "stop"), usage=usage(15, 2)),
    ]
    state = decoder(2)
    seen = [chunk.output_tokens for p in payloads if (chunk := state.feed([p]))]
    assert seen == [1, 2, 4, 5]
    # The final account did not come: the counts add up to it, and are not estimated.
    assert state.end().usage == Usage(prompt_tokens=15, completion_tokens=5)
    final = frame(usage=usage(15, 5, prompt_tokens_details={"cached_tokens": 3}))
    assert usage_of(*payloads, final, choices=2, vllm=True) == Usage(
        prompt_tokens=15, completion_tokens=5, cached_tokens=3
    )


def test_logprobs_of_a_chat() -> None:
    [choice], _ = run(*golden("chat_stream_logprobs.sse"))
    assert len(choice.logprobs) == 8
    assert choice.logprobs[0] == TokenLogprob(
        token=" chiel",
        logprob=-1.2063946723937988,
        top=((" chiel", -1.2063946723937988), (" bras", -2.925144672393799)),
    )


def test_logprobs_of_a_completion() -> None:
    [choice], _ = run(*golden("completions_stream_logprobs.sse"))
    assert len(choice.logprobs) == 8
    assert choice.logprobs[0] == TokenLogprob(
        token=" 81",
        logprob=-2.3733298778533936,
        top=((" 81", -2.3733298778533936), (" thist", -2.6233298778533936)),
    )


def test_logprobs_with_gaps() -> None:
    shapes: list[dict[str, Any]] = [
        {"tokens": ["a", "b"], "token_logprobs": [None, -1.0], "top_logprobs": [None, {"c": None}]},
        {"tokens": ["b"], "token_logprobs": [-1.0], "top_logprobs": None},
        {"content": [{"token": "b", "logprob": -1.0}, {"token": "c", "logprob": None}]},
        {"content": [{"token": "b", "logprob": -1, "top_logprobs": [{"token": "c"}]}]},
    ]
    for shape in shapes:
        [choice], _ = run(frame({**END, "logprobs": shape}))
        assert choice.logprobs == (TokenLogprob(token="b", logprob=-1.0),)
    [choice], _ = run(frame({**END, "logprobs": {"content": None, "refusal": []}}))
    assert choice.logprobs == ()


def test_usage_may_ride_on_the_chunk_with_choices() -> None:
    account = usage(1000, 2, prompt_tokens_details={"cached_tokens": 900})
    assert usage_of(frame(text("a")), frame(END, usage=account)) == Usage(
        prompt_tokens=1000, completion_tokens=2, cached_tokens=900
    )


def test_the_last_usage_wins_and_none_is_added_up() -> None:
    payloads = [
        frame(text("a"), usage=usage(10, 1)),
        frame(END, usage=usage(10, 2)),
        frame(usage=usage(10, 3)),
        frame(usage=None),
        b"[DONE]",
    ]
    assert usage_of(*payloads) == Usage(prompt_tokens=10, completion_tokens=3)


def test_usage_may_come_before_the_finish_reason() -> None:
    payloads = [frame(text("a")), frame(usage=usage(10, 1)), frame(END)]
    assert usage_of(*payloads) == Usage(prompt_tokens=10, completion_tokens=1)


def test_an_account_without_numbers_replaces_none() -> None:
    payloads = [
        frame(END, usage=usage(10, 3)),
        frame(usage={"prompt_tokens": None}),
        frame(usage={}),
    ]
    assert usage_of(*payloads) == Usage(prompt_tokens=10, completion_tokens=3)


def test_a_running_account_that_stays_zero_hides_no_tokens() -> None:
    state = decoder(vllm=False)
    chunk = state.feed([frame(text("a"), usage=usage(10, 0)), frame(text("b"), usage=usage(10, 0))])
    assert chunk is not None
    assert chunk.output_tokens == 2
    assert state.started


def test_choices_of_a_plain_server_share_one_account() -> None:
    payloads = [
        frame(text("a", 0), text("b", 1)),
        frame(text("", 0, "stop"), usage=usage(10, 4)),
        frame(text("", 1, "stop"), usage=usage(10, 9)),
    ]
    account = usage_of(*payloads, choices=2)
    assert account == Usage(prompt_tokens=10, completion_tokens=9)


@pytest.mark.parametrize(
    ("account", "expected"),
    [
        (usage(10, 3), (10, 3, None, None)),
        (usage(10, 3, prompt_tokens_details=None), (10, 3, None, None)),
        (usage(10, 3, prompt_tokens_details={}), (10, 3, None, None)),
        (usage(10, 3, prompt_tokens_details={"cached_tokens": 0}), (10, 3, 0, None)),
        (usage(10, 3, prompt_tokens_details={"cached_tokens": 10}), (10, 3, 10, None)),
        (usage(10, 3, prompt_cache_hit_tokens=4), (10, 3, 4, None)),
        (usage(10, 3, cached_tokens=4), (10, 3, 4, None)),
        (
            usage(10, 3, prompt_cache_hit_tokens=4, prompt_tokens_details={"cached_tokens": 4}),
            (10, 3, 4, None),
        ),
        # Reasoning inside the output, as OpenAI counts; then beside it.
        (
            usage(10, 30, total_tokens=40, completion_tokens_details={"reasoning_tokens": 20}),
            (10, 30, None, 20),
        ),
        (
            usage(10, 30, total_tokens=60, completion_tokens_details={"reasoning_tokens": 20}),
            (10, 50, None, 20),
        ),
        (usage(10, 3, completion_tokens_details={"reasoning_tokens": 20}), (10, 23, None, 20)),
        # Cached tokens beside the prompt.
        (
            usage(10, 3, total_tokens=17, prompt_tokens_details={"cached_tokens": 4}),
            (14, 3, 4, None),
        ),
        (usage(10, 3, prompt_tokens_details={"cached_tokens": 90}), (100, 3, 90, None)),
        (
            usage(
                10,
                3,
                total_tokens=22,
                prompt_tokens_details={"cached_tokens": 4},
                completion_tokens_details={"reasoning_tokens": 5},
            ),
            (14, 8, 4, 5),
        ),
    ],
)
def test_accounts_mean_the_same_everywhere(
    account: dict[str, Any], expected: tuple[int, int, int | None, int | None]
) -> None:
    found = usage_of(frame(END, usage=account))
    assert found is not None
    assert not found.estimated
    assert (
        found.prompt_tokens,
        found.completion_tokens,
        found.cached_tokens,
        found.reasoning_tokens,
    ) == expected


@pytest.mark.parametrize("account", [usage(-1, 3), usage(1, 1 << 60), usage(1 << 60, 1)])
def test_an_absurd_account_is_estimated(account: dict[str, Any]) -> None:
    found = usage_of(frame(END, usage=account))
    assert found is not None
    assert found.estimated


def test_an_absurd_part_of_an_account_is_unknown() -> None:
    found = usage_of(frame(END, usage=usage(1, 1, cached_tokens=-5)))
    assert found == Usage(prompt_tokens=1, completion_tokens=1)


def test_without_usage_it_is_estimated() -> None:
    payloads = [frame(text("a" * 40)), frame(text("b")), frame(END), b"[DONE]"]
    # 41 bytes are more than the two frames can tell.
    assert usage_of(*payloads) == Usage(prompt_tokens=77, completion_tokens=11, estimated=True)
    payloads = [frame(text("a")) for _ in range(9)] + [frame(END)]
    assert usage_of(*payloads) == Usage(prompt_tokens=77, completion_tokens=9, estimated=True)


@pytest.mark.parametrize(
    ("name", "reasoning_tokens", "has_answer"),
    [
        ("reasoning_stream.sse", 3, True),
        ("reasoning_stream_continuous_usage.sse", 3, True),
        ("reasoning_stream_interval.sse", 3, True),
        ("reasoning_stream_logprobs.sse", 3, True),
        ("reasoning_stream_cut.sse", 4, False),
        ("reasoning_stream_hidden.sse", 3, True),
        ("reasoning_stream_off.sse", 0, True),
        ("reasoning_stream_choice.sse", 3, True),
    ],
)
def test_reasoning_of_vllm(name: str, reasoning_tokens: int, has_answer: bool) -> None:
    payloads = golden(name)
    deltas = [c["delta"] for p in payloads[:-1] for c in json.loads(p)["choices"]]
    [choice], last = run(*payloads)
    assert choice.reasoning_text == "".join(d.get("reasoning") or "" for d in deltas)
    assert choice.text == "".join(d.get("content") or "" for d in deltas)
    assert bool(choice.text) is has_answer
    assert last.usage is not None
    assert last.usage.reasoning_tokens == reasoning_tokens
    assert bool(choice.reasoning_text) is (reasoning_tokens > 0 and "hidden" not in name)


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_reasoning_has_two_names(name: str) -> None:
    [choice], _ = run(frame(delta(**{name: "hm"})), frame(text("so", finish="stop")))
    assert (choice.reasoning_text, choice.text) == ("hm", "so")


def test_reasoning_under_both_names_counts_once() -> None:
    [choice], _ = run(frame(delta(reasoning="hm", reasoning_content="hm")), frame(END))
    assert choice.reasoning_text == "hm"


def test_a_refusal_is_what_the_model_says() -> None:
    [choice], _ = run(frame(delta(refusal="I cannot")), frame(END))
    assert choice.text == "I cannot"


def test_tool_calls_come_in_pieces() -> None:
    def piece(index: int | None, arguments: str | None, **fields: Any) -> dict[str, Any]:
        function = {"arguments": arguments, "name": fields.pop("name", None)}
        return delta(tool_calls=[{"index": index, "function": function, **fields}])

    [choice], last = run(
        frame(piece(0, None, id="c0", type="function", name="add")),
        frame(piece(0, '{"a":')),
        frame(piece(0, " 1}")),
        frame(piece(1, "{}", id="c1", name="now")),
        frame(text(None, finish="tool_calls")),
    )
    assert choice.tool_calls == (
        ToolCall(index=0, id="c0", name="add", arguments_json='{"a": 1}'),
        ToolCall(index=1, id="c1", name="now", arguments_json="{}"),
    )
    assert choice.finish_reason is FinishReason.TOOL_CALLS
    assert last.usage is not None
    # Bytes of names and arguments: 3 + 8 + 3 + 2.
    assert last.usage.completion_tokens == 4


def test_tool_calls_without_indexes_stay_apart() -> None:
    calls: list[dict[str, Any]] = [
        {"id": "c0", "function": {"name": "add", "arguments": "{"}},
        {"function": {"arguments": "}"}},
        {"id": "c1", "function": {"name": "now", "arguments": "{}"}},
        {"id": "c2"},
    ]
    [choice], _ = run(*(frame(delta(tool_calls=[call])) for call in calls), frame(END))
    found = [(call.index, call.id, call.arguments_json) for call in choice.tool_calls]
    assert found == [(0, "c0", "{}"), (1, "c1", "{}"), (2, "c2", "{}")]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("stop", FinishReason.STOP),
        ("length", FinishReason.LENGTH),
        ("content_filter", FinishReason.CONTENT_FILTER),
        ("function_call", FinishReason.STOP),
    ],
)
def test_finish_reasons(name: str, expected: FinishReason) -> None:
    [choice], _ = run(frame(text("a", finish=name)))
    assert choice.finish_reason is expected


def test_a_finish_reason_is_told_once() -> None:
    state = decoder()
    assert state.feed([frame(END)]) is not None
    assert state.feed([frame(END)]) is None


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("abort", FailureKind.SERVER_ERROR),
        ("error", FailureKind.SERVER_ERROR),
        ("insufficient_system_resource", FailureKind.BUSY),
    ],
)
def test_finish_reasons_that_are_failures(name: str, kind: FailureKind) -> None:
    failure = failure_of(frame(text("a", finish=name)), frame(usage=usage(1, 1)), b"[DONE]")
    assert failure.kind is kind
    assert name in failure.message


def test_an_error_in_the_stream_is_one_even_before_done() -> None:
    state = decoder()
    detail = {
        "message": "EngineCore encountered an issue.",
        "type": "InternalServerError",
        "param": None,
        "code": 500,
    }
    chunk = state.feed([frame(text("a")), json.dumps({"error": detail}).encode(), b"[DONE]"])
    assert chunk is not None
    assert chunk.deltas[0].text == "a"
    assert state.ended
    assert not state.finished
    with pytest.raises(UpstreamFailure, match="EngineCore") as caught:
        state.end()
    assert caught.value.kind is FailureKind.SERVER_ERROR
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"message": "slow down", "code": 429}, FailureKind.BUSY),
        ({"message": "slow down", "code": "429"}, FailureKind.BUSY),
        ({"message": "too long", "code": 400, "param": "messages"}, FailureKind.BAD_REQUEST),
        ({"message": "x", "code": "server_error"}, FailureKind.SERVER_ERROR),
        ({"message": "x", "code": "9" * 5000}, FailureKind.SERVER_ERROR),
        ({"message": "x", "code": 7}, FailureKind.SERVER_ERROR),
        ({}, FailureKind.SERVER_ERROR),
        ("it broke", FailureKind.SERVER_ERROR),
    ],
)
def test_codes_of_errors_in_the_stream(error: object, kind: FailureKind) -> None:
    failure = failure_of(json.dumps({"error": error}).encode())
    assert failure.kind is kind
    assert len(failure.message) <= 500


@pytest.mark.parametrize(
    "payloads",
    [
        [],
        [b"[DONE]"],
        [frame(text("a"))],
        [frame(text("a")), b"[DONE]"],
        [frame(text("a")), frame(usage=usage(1, 1)), b"[DONE]"],
    ],
)
def test_a_stream_without_a_finish_reason_is_cut(payloads: list[bytes]) -> None:
    failure = failure_of(*payloads)
    assert failure.kind is FailureKind.SERVER_ERROR
    assert "cut" in failure.message


def test_every_choice_needs_its_finish_reason() -> None:
    failure = failure_of(frame(text("a", 0, "stop")), frame(text("b", 1)), b"[DONE]", choices=2)
    assert "1 of 2" in failure.message
    failure = failure_of(frame(text("a", 0, "stop")), choices=2)
    assert "1 of 2" in failure.message


def test_a_choice_that_never_began_is_missing() -> None:
    [choice], last = run(frame(text("a", 0, "stop")), b"[DONE]", choices=2)
    assert choice.text == "a"
    assert last.missing_choices == 1
    assert [each.kind for each in last.deviations] == [DeviationKind.MISSING_CHOICE]


@pytest.mark.parametrize("index", [1, -1, "0", 0.0, None, "x", {}, 1 << 70])
def test_a_single_choice_may_have_any_index(index: object) -> None:
    [choice], _ = run(frame(text("a") | {"index": index}), frame(END | {"index": index}))
    assert (choice.index, choice.text, choice.finish_reason) == (0, "a", FinishReason.STOP)


def test_a_choice_that_was_not_requested_is_left_out() -> None:
    payloads = [frame(text("a", 0), text("b", 1)), frame(text("", 1, "stop")), frame(END)]
    [choice], last = run(*payloads, b"[DONE]")
    assert choice.text == "a"
    assert [each.kind for each in last.deviations] == [DeviationKind.UNREAD_FIELD]


@pytest.mark.parametrize(
    "payload",
    [
        b"{",
        b"[null]",
        b"nullable",
        b"\xff",
        b'{"choices": 7}',
        b'{"choices": [{"delta": {"content": 7}}]}',
        b'{"deep": ' + b"[" * 100_000,
    ],
)
def test_what_is_no_frame(payload: bytes) -> None:
    assert failure_of(payload).kind is FailureKind.PROTOCOL


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b'{"choices": null, "usage": null, "error": null}',
        b'{"choices": [{}]}',
        b'{"choices": [{"index": null, "delta": null, "finish_reason": null, "logprobs": null}]}',
        b'{"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}',
        b'{"choices": [{"index": 0, "delta": {"tool_calls": []}, "finish_reason": ""}]}',
        b'{"choices": [], "prompt_filter_results": [{"x": 1}]}',
    ],
)
def test_frames_without_news(payload: bytes) -> None:
    state = decoder()
    assert state.feed([payload]) is None
    assert not state.started
    assert not state.ended


def test_what_follows_done_is_not_read() -> None:
    [choice], _ = run(frame(text("a", finish="stop")), b"[DONE]", b"{", frame(text("b")))
    assert choice.text == "a"


@pytest.mark.parametrize("name", ["chat_stream_tool_required.sse", "chat_stream_tool_named.sse"])
def test_recorded_tool_calls_come_whole(name: str) -> None:
    [choice], last = run(*golden(name))
    [call] = choice.tool_calls
    assert call.name == "weather"
    assert call.id.startswith("chatcmpl-tool-")
    assert json.loads(call.arguments_json) == {"city": "Rome"}
    assert choice.finish_reason is FinishReason.LENGTH, "white space until the limit"
    assert last.usage is not None
    assert last.usage.completion_tokens == 60


def test_a_recorded_choice_ends_with_an_empty_delta() -> None:
    [choice], _ = run(*golden("chat_stream_choice.sse"))
    assert (choice.text, choice.finish_reason) == ("Rome", FinishReason.STOP)


def test_a_recorded_refusal_inside_a_stream_is_the_requests_own() -> None:
    with pytest.raises(UpstreamFailure) as caught:
        run(*golden("chat_stream_bad_regex.sse"))
    assert caught.value.kind is FailureKind.BAD_REQUEST
    assert "Grammar error" in str(caught.value)


@pytest.mark.parametrize(("told", "matched"), [("END", "END"), (2, ""), (None, ""), ([1], "")])
def test_the_text_that_ended_the_answer_is_told(told: Any, matched: str) -> None:
    """vLLM tells the text, or the id of a token."""
    [choice], _ = run(frame(text("a")), frame({**END, "stop_reason": told}), b"[DONE]")
    assert (choice.finish_reason, choice.matched_stop) == (FinishReason.STOP, matched)


@pytest.mark.parametrize(
    ("told", "had"),
    [
        ({"moegate_prefill_ms": 12.5, "moegate_decode_ms": 300}, (0.0125, 0.3)),
        ({}, (None, None)),
        ({"moegate_prefill_ms": -1.0, "moegate_decode_ms": float(10**12)}, (None, None)),
        ({"moegate_prefill_ms": "1", "moegate_decode_ms": True}, (None, None)),
    ],
)
def test_what_it_had_of_the_engines_steps(
    told: dict[str, object], had: tuple[float | None, float | None]
) -> None:
    *frames, usage, done = golden("chat_stream.sse")
    last_frame = json.loads(usage) | {"metrics": TIMES | told}
    _, last = run(*frames, json.dumps(last_frame).encode(), done)
    assert last.engine is not None
    assert (last.engine.prefill_had_s, last.engine.decode_had_s) == had


@pytest.mark.parametrize(
    ("told", "whole_s"),
    [
        ({"moegate_whole_ms": 400.0}, 0.4),
        ({"moegate_whole_ms": "400"}, None),
        ({}, None),
        ({"moegate_whole_ms": 400.0} | TIMES, sum(TIMES.values()) / 1e3),
    ],
)
def test_of_several_choices_the_plugin_alone_tells_the_whole_time(
    told: dict[str, object], whole_s: float | None
) -> None:
    *frames, usage, done = golden("chat_stream.sse")
    metrics = {"moegate_prefill_ms": 12.5, "moegate_decode_ms": 300.0} | told
    last_frame = json.loads(usage) | {"metrics": metrics}
    _, last = run(*frames, json.dumps(last_frame).encode(), done)
    told_s = None if last.engine is None else last.engine.whole_s
    assert told_s == (None if whole_s is None else pytest.approx(whole_s))


def test_the_name_of_the_model_is_bounded() -> None:
    made = decoder(vllm=False)
    chunk = made.feed([frame(text("a", finish="stop"), model="m" * 100_000)])
    assert chunk is not None
    assert chunk.model == made.end().model == "m" * 200
