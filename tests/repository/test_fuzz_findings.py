"""What fuzzing found (tests/fuzz), each as a test of its own."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.domain.failures import FailureKind
from gateway.domain.slices import finish
from gateway.doors.grpc.errors import RpcError, invalid, unknown_model
from gateway.doors.grpc.requests import generation_steps
from gateway.translation.chat_input import MAX_FAULTS
from gateway.translation.responses import delta_message, usage_message
from gateway.upstream.answer_bounds import AnswerBounds
from gateway.upstream.http.failures import http_failure
from gateway.upstream.openai.stream import StreamDecoder
from gateway.upstream.vllm.metrics import BadMetrics, parse_metrics
from moegate.v1 import generation_pb2
from tests.fuzz.request_checks import METADATA_LIMIT_BYTES, answer_bytes
from tests.known import IDLE_METRICS


def decoder(choices: int = 1) -> StreamDecoder:
    return StreamDecoder(choices, prompt_tokens=lambda: 77, usage_by_choice=True)


def frame(text: str, **fields: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return msgspec.json.encode({"choices": [choice], **fields})


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}


END = b'{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}'


def test_bytes_of_a_stream_that_are_not_utf_8_cost_a_character() -> None:
    stream = decoder()
    chunk = stream.feed([b'{"choices": [{"index": 0, "delta": {"content": "a\xffb"}}]}'])
    assert chunk is not None
    assert chunk.deltas[0].text == "a\ufffdb"
    delta_message(chunk)


def test_an_error_body_that_is_not_utf_8_is_told_by_its_status() -> None:
    failure = http_failure(503, b'{"error": {"message": "\xff"}}', {}, 0.0)
    assert (failure.kind, failure.message) == (FailureKind.BUSY, "HTTP 503")


def test_the_count_of_output_tokens_never_falls() -> None:
    stream = decoder()
    counts = []
    for fields in ({"usage": usage(5, 7)}, {"usage": usage(5, 3)}, {}):
        chunk = stream.feed([frame("a", **fields)])
        assert chunk is not None
        counts.append(chunk.output_tokens)
    assert counts == [7, 7, 7]


def test_a_server_that_begins_to_count_late_takes_nothing_back() -> None:
    stream = decoder()
    chunks = [stream.feed([frame("a")]), stream.feed([frame("b")])]
    chunks.append(stream.feed([frame("c", usage=usage(5, 1))]))
    assert [chunk and chunk.output_tokens for chunk in chunks] == [1, 2, 2]


@pytest.mark.parametrize(
    ("bad", "tokens"),
    [
        (usage(-5, 1), (77, 1)),
        (usage(5, -1), (5, 1)),
        (usage(10**30, 1), (77, 1)),
        (usage(2**40, 1), (40, 1)),
        (usage(5, 2**63), (5, 1)),
        (usage(5, 2**40), (5, 16)),
    ],
)
def test_an_absurd_count_costs_that_count(bad: dict[str, int], tokens: tuple[int, int]) -> None:
    bounds = AnswerBounds(max_output_tokens=16, prompt_token_bound=lambda: 40)
    stream = StreamDecoder(1, prompt_tokens=lambda: 77, usage_by_choice=True, bounds=bounds)
    for payload in (frame("a", usage=bad), END):
        chunk = stream.feed([payload])
        assert chunk is not None
        assert chunk.output_tokens == 1
    stream.feed([msgspec.json.encode({"choices": [], "usage": bad})])
    account = stream.end().usage
    assert account is not None
    usage_message(account)
    assert (account.prompt_tokens, account.completion_tokens) == tokens
    assert account.estimated


@pytest.mark.parametrize("index", [-1, 2**32, 10**30])
def test_an_absurd_index_of_a_tool_call_does_not_reach_the_client(index: int) -> None:
    stream = decoder()
    delta = {"tool_calls": [{"index": index, "function": {"name": "f"}}]}
    choice = {"index": 0, "delta": delta, "finish_reason": "stop"}
    chunk = stream.feed([msgspec.json.encode({"choices": [choice]})])
    assert chunk is not None
    delta_message(chunk)
    assert [call.index for call in chunk.deltas[0].tool_calls] == [0]


@pytest.mark.parametrize("count", [b"1e308", b"1e999", b"1e16"])
def test_requests_without_a_finite_sum_are_bad(count: bytes) -> None:
    line = b'vllm:num_requests_running{engine="%d"} ' + count + b"\n"
    with pytest.raises(BadMetrics):
        parse_metrics(line % 0 + line % 1, "pool/a", 0.0, None)


@pytest.mark.parametrize("count", [b"1e999", b"1e300"])
def test_counts_without_a_finite_sum_are_unknown(count: bytes) -> None:
    text = IDLE_METRICS + b"vllm:prompt_tokens_total " + count + b"\n"
    assert parse_metrics(text, "pool/a", 0.0, None).prompt_tokens_total is None


def test_an_absurd_cache_size_is_unknown() -> None:
    line = b'vllm:cache_config_info{block_size="%s",num_gpu_blocks="2"} 1.0\n' % (b"9" * 5000)
    assert parse_metrics(line + IDLE_METRICS, "pool/a", 0.0, None).kv_capacity_tokens is None


@pytest.mark.parametrize("messages", [1, 40, 1000])
def test_however_many_faults_the_answer_reaches_the_client(messages: int) -> None:
    request = generation_pb2.GenerateRequest(model="moe")
    for _ in range(messages):
        request.chat.messages.add()
    with pytest.raises(RpcError) as caught:
        finish(generation_steps(request, 16))
    assert answer_bytes(caught.value) <= METADATA_LIMIT_BYTES
    (detail,) = caught.value.details
    faults = detail.field_violations  # type: ignore[attr-defined]
    assert [fault.field for fault in faults][:2] == [
        "chat.messages[0].role",
        "chat.messages[0].parts",
    ]
    if messages > 1:
        untold = MAX_FAULTS - len(faults) + 1
        assert f"at least {untold} more faults" in faults[-1].description


def test_one_long_fault_reaches_the_client_too() -> None:
    error = invalid([("字" * 4000, "字" * 4000)])
    assert answer_bytes(error) <= METADATA_LIMIT_BYTES
    assert "字" in error.message


def test_a_long_name_of_a_model_is_refused_in_an_answer_that_reaches_the_client() -> None:
    request = generation_pb2.GenerateRequest(model="x" * 20_000, prompt="a")
    with pytest.raises(RpcError, match="model: 20000 characters: at most 256") as caught:
        finish(generation_steps(request, 16))
    assert answer_bytes(caught.value) <= METADATA_LIMIT_BYTES
    request.model = "\U0001f980" * 256
    model = finish(generation_steps(request, 16)).model
    assert answer_bytes(unknown_model(model)) <= METADATA_LIMIT_BYTES
