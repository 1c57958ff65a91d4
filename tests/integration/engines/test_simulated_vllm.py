"""The simulated vLLM over real HTTP, held against what a real vLLM 0.32 sent (tests/golden)."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.upstream.vllm.metrics import parse_metrics
from moegate.simulated_vllm.server import SimulatedVllm, SimulatedVllmConfig, simulated_vllm
from tests.known import known

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "vllm_0_32"
MODEL = "tiny-moe"
READY_S = 60.0
"""Bound on what is waited for: generous, the machine is shared."""

# The sizes of the server that wrote the golden files.
CONFIG = SimulatedVllmConfig(
    served_model_name=MODEL,
    max_model_len=8192,
    max_num_seqs=32,
    num_gpu_blocks=600,
    block_size=128,
    speed=1000.0,
    enable_prompt_tokens_details=True,
)
HELLO: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Hello"}],
    "max_tokens": 8,
    "temperature": 0,
    "seed": 7,
}
STREAM = {"stream": True, "stream_options": {"include_usage": True}}
CHAT, RAW = "/v1/chat/completions", "/v1/completions"


class Client:
    """HTTP calls to one server."""

    def __init__(self, sim: SimulatedVllm, session: aiohttp.ClientSession) -> None:
        self.sim = sim
        self.session = session

    async def post(
        self, path: str, body: dict[str, Any], **headers: str
    ) -> tuple[int, Any, aiohttp.ClientResponse]:
        """Status, JSON and response."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.post(self.sim.url + path, json=body, headers=named) as response:
            return response.status, await response.json(), response

    async def answer(self, path: str, body: dict[str, Any]) -> Any:
        """JSON of an answer that must be good."""
        status, answer, _ = await self.post(path, body)
        assert status == 200, answer
        return answer

    async def stream(self, path: str, body: dict[str, Any]) -> list[Any]:
        """The JSON of every event of a stream that must be good."""
        async with self.session.post(self.sim.url + path, json=body | {"stream": True}) as response:
            assert response.status == 200
            assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
            return events(await response.text())

    async def get(self, path: str) -> str:
        async with self.session.get(self.sim.url + path) as response:
            assert response.status == 200
            return await response.text()


@asynccontextmanager
async def serving(config: SimulatedVllmConfig = CONFIG) -> AsyncIterator[Client]:
    async with simulated_vllm(config) as sim, aiohttp.ClientSession() as session:
        yield Client(sim, session)


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with serving() as running:
        yield running


def config(**fields: Any) -> SimulatedVllmConfig:
    base = {name: getattr(CONFIG, name) for name in CONFIG.__dataclass_fields__}
    return SimulatedVllmConfig(**(base | fields))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(READY_S):
        while not condition():
            await asyncio.sleep(0.005)


def events(text: str) -> list[Any]:
    blocks = text.split("\n\n")
    assert blocks[-2:] == ["data: [DONE]", ""]
    assert all(block.startswith("data: ") for block in blocks[:-1])
    return [json.loads(block.removeprefix("data: ")) for block in blocks[:-2]]


def shape(value: Any) -> Any:
    """Keys in order and types of the values; lengths of lists of plain values do not count."""
    match value:
        case dict() if value and all(isinstance(each, float) for each in value.values()):
            return "floats by token"
        case dict():
            return [(key, shape(each)) for key, each in value.items()]
        case list() if any(isinstance(each, dict) for each in value):
            return [shape(each) for each in value]
        case list():
            return "list"
    return type(value).__name__


def shapes(chunks: list[Any]) -> list[Any]:
    """The shapes of a stream, without repeats."""
    found: list[Any] = []
    for chunk in chunks:
        if (one := shape(chunk)) not in found:
            found.append(one)
    return found


def golden(name: str) -> Any:
    text = (GOLDEN / name).read_text()
    return events(text) if name.endswith(".sse") else json.loads(text)


def text_of(chunks: list[Any], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    return "".join(
        choice["delta"]["content"] if "delta" in choice else choice["text"]
        for choice in choices
        if choice["index"] == index
    )


@pytest.mark.parametrize(
    ("name", "path", "fields"),
    [
        ("chat_stream.sse", CHAT, {}),
        ("chat_stream_cached.sse", CHAT, {}),
        (
            "chat_stream_continuous_usage.sse",
            CHAT,
            {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
        ),
        ("chat_stream_n2.sse", CHAT, {"n": 2, "temperature": 1}),
        ("chat_stream_logprobs.sse", CHAT, {"logprobs": True, "top_logprobs": 2}),
        ("completions_stream.sse", RAW, {"prompt": "Hello"}),
        ("completions_stream_logprobs.sse", RAW, {"prompt": "Hello", "logprobs": 2}),
    ],
)
async def test_streams_have_the_shape_of_the_real_ones(
    client: Client, name: str, path: str, fields: dict[str, Any]
) -> None:
    chunks = await client.stream(path, HELLO | STREAM | fields)
    real = golden(name)
    assert shapes(chunks) == shapes(real)
    assert len(chunks) == len(real), "a chunk a token, and those around them"
    usage = chunks[-1]["usage"]
    assert usage["completion_tokens"] == real[-1]["usage"]["completion_tokens"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


async def test_an_answer_that_ends_by_itself_has_the_shape_of_the_real_one() -> None:
    async with serving(config(mean_answer_tokens=5.0)) as client:
        chunks = await client.stream(CHAT, HELLO | STREAM | {"max_tokens": 500})
    real = golden("chat_stream_eos.sse")
    assert [shapes(chunks)[i] for i in (0, -2, -1)] == shapes(real)
    last = chunks[-2]["choices"][0]
    assert (last["delta"]["content"], last["finish_reason"], last["stop_reason"]) == (
        "",
        "stop",
        None,
    )
    assert chunks[-1]["usage"]["completion_tokens"] == len(chunks) - 2


async def test_a_stop_string_is_withheld_in_the_stream_and_named(client: Client) -> None:
    body = HELLO | STREAM | {"max_tokens": 40, "ignore_eos": True}
    plain = text_of(await client.stream(CHAT, body))
    string = plain[60:66]
    chunks = await client.stream(CHAT, body | {"stop": [string, "never said"]})
    assert shapes(chunks) == shapes(golden("chat_stream_stop.sse"))
    assert text_of(chunks) == plain[: plain.index(string)]
    last = chunks[-2]["choices"][0]
    assert (last["finish_reason"], last["stop_reason"]) == ("stop", string)
    answer = await client.answer(CHAT, body | {"stop": string, "stream": False} | NO_OPTIONS)
    assert answer["choices"][0]["message"]["content"] == text_of(chunks)
    assert answer["choices"][0]["stop_reason"] == string
    assert answer["usage"]["completion_tokens"] == chunks[-1]["usage"]["completion_tokens"]


NO_OPTIONS = {"stream_options": None}


@pytest.mark.parametrize(
    ("name", "path", "fields"),
    [("chat_unary.json", CHAT, {}), ("completions_unary.json", RAW, {"prompt": "Hello"})],
)
async def test_unary_answers_have_the_shape_of_the_real_ones(
    client: Client, name: str, path: str, fields: dict[str, Any]
) -> None:
    assert shape(await client.answer(path, HELLO | fields)) == shape(golden(name))


async def test_models_and_tokens_have_the_shape_of_the_real_ones(client: Client) -> None:
    models = json.loads(await client.get("/v1/models"))
    assert shape(models) == shape(golden("models.json"))
    assert models["data"][0]["max_model_len"] == 8192
    tokens = await client.answer("/tokenize", {"messages": HELLO["messages"]})
    assert shape(tokens) == shape(golden("tokenize.json"))
    assert tokens["count"] == len(tokens["tokens"])
    usage = (await client.answer(CHAT, HELLO))["usage"]
    assert usage["prompt_tokens"] == tokens["count"], "the template is the same"
    text = "Experts, 専門家, and 🦀: all of them."
    tokens = await client.answer("/tokenize", {"prompt": text, "return_token_strs": True})
    assert len(tokens["token_strs"]) == tokens["count"]
    assert await client.answer("/detokenize", {"tokens": tokens["tokens"]}) == {"prompt": text}


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("error_bad_temperature.json", {"temperature": -1}),
        ("error_unknown_model.json", {"model": "no-such-model"}),
        (
            "error_context_overflow.json",
            STREAM | {"messages": [{"role": "user", "content": "gateway " * 5000}]},
        ),
    ],
)
async def test_errors_are_those_of_the_real_one(
    client: Client, name: str, fields: dict[str, Any]
) -> None:
    status, answer, response = await client.post(CHAT, HELLO | fields)
    assert answer == golden(name)
    assert status == answer["error"]["code"]
    assert response.headers["Content-Type"] == "application/json"


async def test_a_body_of_the_wrong_shape_names_the_field(client: Client) -> None:
    status, answer, _ = await client.post(CHAT, HELLO | {"max_tokens": "many"})
    real = golden("error_bad_type.json")
    assert (status, shape(answer)) == (400, shape(real))
    for key in ("type", "param", "code"):
        assert answer["error"][key] == real["error"][key]
    _, answer, _ = await client.post(CHAT, {"model": MODEL})
    assert answer["error"]["param"] == "body.messages"
    for data, content_type in (
        (b"{", "application/json"),
        (b"[" * 100_000, "application/json"),
        (b"{}", "text/plain"),
    ):
        async with client.session.post(
            client.sim.url + CHAT, data=data, headers={"Content-Type": content_type}
        ) as response:
            assert response.status == 400
            assert (await response.json())["error"]["type"] == "Bad Request"


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (CHAT, {"max_tokens": 0}, "max_tokens"),
        (CHAT, {"max_tokens": 8193}, "max_tokens"),
        (CHAT, {"max_completion_tokens": 8193}, "max_completion_tokens"),
        (CHAT, {"top_p": 0}, "top_p"),
        (CHAT, {"temperature": 3}, "temperature"),
        (CHAT, {"n": 2}, None),
        (CHAT, {"n": 0}, None),
        (CHAT, {"min_tokens": 9}, None),
        (CHAT, {"presence_penalty": 3}, None),
        (CHAT, {"repetition_penalty": 0}, None),
        (CHAT, {"top_logprobs": 2}, "top_logprobs"),
        (CHAT, {"logprobs": True, "top_logprobs": 21}, "logprobs"),
        (CHAT, {"stream_options": {"include_usage": True}}, "stream_options"),
        (CHAT, {"stream_interval": 0}, "stream_interval"),
        (RAW, {"prompt": ""}, "prompt"),
        (RAW, {"prompt": [2**32]}, "prompt"),
        (RAW, {"prompt": [1] * 8193}, "input_tokens"),
        (RAW, {"prompt": [1] * 8192}, "max_tokens"),
    ],
)
async def test_values_out_of_range_are_refused(
    client: Client, path: str, fields: dict[str, Any], param: str | None
) -> None:
    status, answer, _ = await client.post(path, HELLO | fields)
    assert (status, answer["error"]["type"]) == (400, "BadRequestError")
    assert answer["error"]["param"] == param
    assert client.sim.open_requests == 0


async def test_the_same_request_says_the_same_streamed_and_in_one_piece(client: Client) -> None:
    body = HELLO | {"n": 2, "temperature": 1, "max_tokens": 30}
    chunks = await client.stream(CHAT, body | STREAM)
    answer = await client.answer(CHAT, body)
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    assert texts == [text_of(chunks, 0), text_of(chunks, 1)]
    assert texts[0] != texts[1]
    assert answer["usage"]["completion_tokens"] == chunks[-1]["usage"]["completion_tokens"]
    other = await client.answer(CHAT, body | {"seed": 8})
    assert other["choices"][0]["message"]["content"] != texts[0]


async def test_token_ids_in_and_out(client: Client) -> None:
    body = {"prompt": [5, 6, 7], "max_tokens": 12, "ignore_eos": True, "return_token_ids": True}
    answer = await client.answer(RAW, body)
    [choice] = answer["choices"]
    assert (choice["prompt_token_ids"], answer["usage"]["prompt_tokens"]) == ([5, 6, 7], 3)
    text = await client.answer("/detokenize", {"tokens": choice["token_ids"]})
    assert text == {"prompt": choice["text"]}
    chunks = await client.stream(RAW, body | {"stream_interval": 4})
    ids = [chunk["choices"][0]["token_ids"] for chunk in chunks]
    assert [len(each) for each in ids] == [1, 4, 4, 3]
    assert [one for each in ids for one in each] == choice["token_ids"]
    told = [chunk["choices"][0]["prompt_token_ids"] for chunk in chunks]
    assert told == [[5, 6, 7], None, None, None]
    assert "system_fingerprint" in chunks[-1], "no usage chunk follows that would have it"
    chunks = await client.stream(CHAT, HELLO | {"return_token_ids": True})
    assert chunks[0]["prompt_token_ids"]
    assert len(chunks[1]["choices"][0]["token_ids"]) == 1


async def test_the_servers_stream_interval_is_a_lower_bound() -> None:
    async with serving(config(stream_interval=5)) as client:
        body = {"prompt": "a", "max_tokens": 12, "ignore_eos": True, "return_token_ids": True}
        for asked, sizes in ((1, [1, 5, 5, 1]), (8, [1, 8, 3])):
            chunks = await client.stream(RAW, body | {"stream_interval": asked})
            assert [len(chunk["choices"][0]["token_ids"]) for chunk in chunks] == sizes


async def test_cached_tokens_by_full_blocks_and_salt(client: Client) -> None:
    body = {"prompt": [9] * 300, "max_tokens": 1}

    async def cached(**fields: str) -> int:
        usage = (await client.answer(RAW, body | fields))["usage"]
        assert isinstance(usage["prompt_tokens_details"]["cached_tokens"], int)
        return int(usage["prompt_tokens_details"]["cached_tokens"])

    assert [await cached(), await cached()] == [0, 256]
    assert [await cached(cache_salt="a"), await cached(cache_salt="a")] == [0, 256]


async def test_times_of_a_request_where_the_server_tells_them() -> None:
    names = [
        *("time_to_first_token_ms", "generation_time_ms", "queue_time_ms"),
        *("mean_itl_ms", "tokens_per_second"),
    ]
    of_plugin = ["moegate_prefill_ms", "moegate_decode_ms"]
    async with serving(config(enable_per_request_metrics=True, speed=10.0)) as client:
        for path, body in ((CHAT, HELLO), (RAW, HELLO | {"prompt": "Hello"})):
            last = (await client.stream(path, body | STREAM))[-1]
            assert list(last)[-1] == "metrics"
            assert list(last["metrics"]) == [*names, *of_plugin]
            metrics = (await client.answer(path, body))["metrics"]
            assert list(metrics) == [*names, "speculative_decoding", *of_plugin]
            assert metrics["mean_itl_ms"] == pytest.approx(metrics["generation_time_ms"] / 7)
            assert min(metrics[name] for name in (*names, *of_plugin)) >= 0
            one = (await client.stream(path, body | STREAM | {"max_tokens": 1}))[-1]["metrics"]
            assert "mean_itl_ms" not in one, "there is none with one token"
        two = {"n": 2, "temperature": 1}
        of_choices = [*of_plugin, "moegate_whole_ms"]
        assert list((await client.stream(CHAT, HELLO | STREAM | two))[-1]["metrics"]) == of_choices
        metrics = (await client.answer(CHAT, HELLO | two))["metrics"]
        assert [name for name in metrics if metrics[name] is not None] == of_choices
    async with serving(
        config(enable_per_request_metrics=True, speed=10.0, data_parallel_size=2)
    ) as client:
        assert "metrics" not in (await client.stream(CHAT, HELLO | STREAM | two))[-1]
        assert (await client.answer(CHAT, HELLO | two))["metrics"] is None


async def test_without_the_flag_cached_tokens_are_not_told() -> None:
    async with serving(config(enable_prompt_tokens_details=False)) as client:
        answer = await client.answer(CHAT, HELLO)
        assert answer["usage"]["prompt_tokens_details"] is None
        chunks = await client.stream(CHAT, HELLO | STREAM)
        assert "prompt_tokens_details" not in chunks[-1]["usage"]


@pytest.mark.parametrize(("ranks", "golden"), [(1, "metrics.txt"), (2, "metrics_of_ranks.txt")])
async def test_metrics_are_named_and_labelled_as_the_real_ones(ranks: int, golden: str) -> None:
    async with serving(config(data_parallel_size=ranks)) as client:
        await client.answer(CHAT, HELLO)
        async with client.session.get(client.sim.url + "/metrics") as response:
            expected = "text/plain; version=1.0.0; charset=utf-8"
            assert response.headers["Content-Type"] == expected
            text = await response.text()
    real = (GOLDEN / golden).read_text()
    heads = [line for line in text.splitlines() if line.startswith("#")]
    assert set(heads) <= set(real.splitlines())

    def series(lines: str) -> set[str]:
        found = re.findall(r"^(vllm:\w+\{.*\}) [^ ]+$", lines, re.MULTILINE)
        return {one for one in found if "cache_config_info" not in one}

    families = {line.split()[2] for line in heads}
    wanted = {one for one in series(real) if _family(one) in families}
    assert series(text) == wanted

    def caches(lines: str) -> list[dict[str, str]]:
        found = re.findall(r"^vllm:cache_config_info\{(.*)\} 1.0$", lines, re.MULTILINE)
        return [dict(re.findall(r'(\w+)="([^"]*)"', line)) for line in found]

    assert len(caches(text)) == ranks
    for ours, theirs in zip(caches(text), caches(real), strict=True):
        assert ours.items() <= theirs.items()
    capacity = parse_metrics(text.encode(), "sim", 0.0, None).kv_capacity_tokens
    assert capacity == parse_metrics(real.encode(), "real", 0.0, None).kv_capacity_tokens
    assert capacity == ranks * 76_800
    for name in (
        *("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"),
        *("prompt_tokens_total", "prompt_tokens_cached_total", "generation_tokens_total"),
        *("prefix_cache_queries_total", "prefix_cache_hits_total", "num_preemptions_total"),
        *("request_success_total", "admission_rejections_total", "engine_sleep_state"),
        *("time_to_first_token_seconds", "inter_token_latency_seconds"),
        *("e2e_request_latency_seconds", "request_queue_time_seconds"),
        *("request_prefill_time_seconds", "request_decode_time_seconds"),
        *("iteration_tokens_total", "cache_config_info"),
    ):
        assert f"vllm:{name}" in families


def _family(series: str) -> str:
    name = series.partition("{")[0]
    return re.sub(r"_(bucket|count|sum)$", "", name)


async def test_the_gateway_reads_the_metrics() -> None:
    async with serving(config(speed=1.0)) as client:
        body = HELLO | {"max_tokens": 4000, "ignore_eos": True, "stream": True}
        async with client.session.post(client.sim.url + CHAT, json=body) as response:
            await response.content.readany()
            text = (await client.get("/metrics")).encode()
            report = parse_metrics(text, "sim", 0.0, None)
            assert (report.running, report.waiting) == (1, 0)
            assert report.kv_usage == pytest.approx(1 / 600)
            assert report.kv_capacity_tokens == 76_800
            assert known(report.generation_tokens_total) >= 1
            response.close()


async def test_a_client_that_leaves_frees_the_engine() -> None:
    async with serving(config(speed=1.0, max_num_seqs=2)) as client:
        sim = client.sim
        long = HELLO | {"max_tokens": 4000, "ignore_eos": True}
        streaming = await client.session.post(sim.url + CHAT, json=long | {"stream": True})
        await streaming.content.readany()
        unary = [asyncio.create_task(client.post(CHAT, long | {"seed": n})) for n in (1, 2)]
        await until(lambda: (sim.engine.running, sim.engine.waiting) == (2, 1))
        assert sim.open_requests == 3
        streaming.close()
        await until(lambda: (sim.engine.running, sim.engine.waiting) == (2, 0))
        for call in unary:
            call.cancel()
        await asyncio.gather(*unary, return_exceptions=True)
        await until(lambda: sim.open_requests == 0)
        assert not sim.engine.has_work
        assert sim.engine.kv_usage == 0.0
        text = await client.get("/metrics")
        assert 'finished_reason="abort",model_name="tiny-moe"} 0.0' in text, "as in vLLM"
        assert (await client.answer(CHAT, HELLO))["usage"]["completion_tokens"] == 8


async def test_beyond_the_queue_limit_there_is_503_without_a_hint() -> None:
    async with serving(config(speed=1.0, max_num_queued_reqs=2)) as client:
        long = HELLO | {"max_tokens": 4000, "ignore_eos": True, "stream": True, "temperature": 1}
        async with client.session.post(client.sim.url + CHAT, json=long | {"n": 2}) as response:
            await response.content.readany()
            status, answer, refused = await client.post(CHAT, HELLO)
            assert status == 503
            assert answer["error"] == {
                "message": "The engine is currently busy and cannot accept new requests. Please"
                " try again later or on a different instance.",
                "type": "Service Unavailable",
                "param": None,
                "code": 503,
            }
            assert "Retry-After" not in refused.headers
            text = await client.get("/metrics")
            assert 'model_name="tiny-moe",reason="max_num_queued_reqs"} 1.0' in text
            response.close()


async def test_the_api_key_guards_v1_alone() -> None:
    async with serving(config(api_key="secret")) as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            status, answer, _ = await client.post(CHAT, HELLO, **headers)
            assert (status, answer) == (401, {"error": "Unauthorized"})
        status, _, _ = await client.post(CHAT, HELLO, Authorization="Bearer secret")
        assert status == 200
        assert await client.get("/health") == ""
        assert json.loads(await client.get("/version")) == {"version": "0.32.0"}
        assert json.loads(await client.get("/load")) == {"server_load": 0}


async def test_headers_that_name_the_request_and_the_rank(client: Client) -> None:
    _, answer, _ = await client.post(CHAT, HELLO, X_Request_Id="mine")
    assert answer["id"] == "chatcmpl-mine"
    _, answer, _ = await client.post(RAW, {"prompt": "a", "request_id": "body"})
    assert answer["id"] == "cmpl-body"
    assert answer["usage"]["completion_tokens"] <= 16, "the default of raw completions"
    status, _, _ = await client.post(CHAT, HELLO, X_data_parallel_rank="0")
    assert status == 200
    for rank in ("7", "0000000007"):
        status, answer, _ = await client.post(CHAT, HELLO, X_data_parallel_rank=rank)
        assert (status, answer["error"]["message"]) == (
            400,
            f"data_parallel_rank {rank} is out of range [0, 1).",
        )


async def test_tools_schemas_and_images_are_answered_in_words(client: Client) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    answer = await client.answer(
        CHAT,
        HELLO
        | {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c", "content": "a crab"},
            ],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
            "tool_choice": "auto",
            "response_format": {"type": "json_object"},
            "unknown_field": {"ignored": True},
        },
    )
    assert answer["choices"][0]["message"]["content"]


async def test_open_streams_do_not_keep_the_server_from_stopping() -> None:
    async with aiohttp.ClientSession() as session:
        async with simulated_vllm(config(speed=1.0)) as sim:
            long = HELLO | {"max_tokens": 4000, "ignore_eos": True, "stream": True}
            response = await session.post(sim.url + CHAT, json=long)
            await response.content.readany()
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
        response.close()


async def test_the_command_serves_and_ends_cleanly() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "moegate", "simulate-vllm", "--port", "0"),
        *("--served-model-name", "demo", "--speed", "1000", "--experts", "64"),
        cwd=GOLDEN.parents[2],
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(READY_S):
            line = (await process.stdout.readline()).decode()
        found = re.fullmatch(r"simulated vLLM on (http://127\.0\.0\.1:\d+) serving demo\n", line)
        assert found is not None, line
        async with (
            aiohttp.ClientSession() as session,
            session.post(found[1] + RAW, json={"prompt": "a", "model": "demo"}) as response,
        ):
            assert response.status == 200
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(READY_S):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
