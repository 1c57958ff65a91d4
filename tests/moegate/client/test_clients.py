"""Both clients against a gateway on loopback: what they send, what they return, how they fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TypeVar

import pytest

from moegate.client import (
    Answer,
    AsyncClient,
    Client,
    Message,
    MoegateError,
    Tool,
    tool_result,
)
from moegate.simulated_vllm.server import SimulatedVllm
from tests.moegate.client.conftest import POOR_KEY
from tests.scripted import ROLE, Scripted, upstreams, word
from tests.serving import KEY, MODEL, READY_S, Serving, until

WEATHER = Tool(
    "weather",
    "Weather of a place.",
    {
        "type": "object",
        "properties": {"place": {"type": "string"}},
        "required": ["place"],
        "additionalProperties": False,
    },
)
Returned = TypeVar("Returned")


@pytest.fixture
async def client(gateway: Serving) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(gateway.gateway.address, key=KEY, timeout_s=60.0) as client:
        yield client


async def in_thread(gateway: Serving, work: Callable[[Client], Returned]) -> Returned:
    """Runs work of the synchronous client beside the gateway's loop."""

    def run() -> Returned:
        with Client(gateway.gateway.address, key=KEY, timeout_s=60.0) as client:
            return work(client)

    return await asyncio.to_thread(run)


def check_whole(answer: Answer, tokens: int) -> None:
    """A complete answer with its account."""
    assert answer.text
    assert answer.choices[0].finish_reason == "length"
    assert answer.request_id
    assert answer.usage is not None
    assert answer.usage.completion_tokens == tokens
    assert answer.route is not None
    assert (answer.route.placement, answer.route.remote) == ("own/a", False)
    assert answer.timings is not None
    assert answer.timings.ttft_s is not None
    assert answer.timings.longest_gap_s is None or answer.timings.longest_gap_s >= 0.0
    assert answer.cost is not None
    assert answer.cost.metered_nano_usd is not None
    assert answer.cost.metered_usd == Decimal(answer.cost.metered_nano_usd) / 10**9


async def test_a_whole_answer_has_its_text_and_its_account(
    gateway: Serving, client: AsyncClient
) -> None:
    check_whole(await client.chat(MODEL, "hi", max_output_tokens=5), 5)
    check_whole(await in_thread(gateway, lambda c: c.chat(MODEL, "hi", max_output_tokens=5)), 5)


async def test_the_pieces_of_a_stream_are_the_answer(gateway: Serving, client: AsyncClient) -> None:
    stream = client.stream(MODEL, "hi", max_output_tokens=7, seed=3, temperature=0.0)
    texts = [piece.text async for piece in stream]
    assert stream.answer.text == "".join(texts)
    check_whole(stream.answer, 7)

    def read(client: Client) -> Answer:
        with client.stream(MODEL, "hi", max_output_tokens=7, seed=3, temperature=0.0) as stream:
            assert "".join(piece.text for piece in stream) == "".join(texts)
            return stream.answer

    check_whole(await in_thread(gateway, read), 7)


async def test_a_tool_is_called_and_its_result_goes_back(client: AsyncClient) -> None:
    asked = Message("user", "How is the weather in Rome?")
    first = await client.chat(MODEL, [asked], tools=[WEATHER], tool_choice="required")
    [call] = first.tool_calls
    assert call.name == "weather"
    assert set(call.arguments) == {"place"}
    messages = [asked, first.message(), tool_result(call, "sunny")]
    second = await client.chat(MODEL, messages, tools=[WEATHER], max_output_tokens=4)
    assert second.text
    stream = client.stream(MODEL, [asked], tools=[WEATHER], tool_choice="weather")
    async for _ in stream:
        pass
    [streamed] = stream.answer.tool_calls
    assert streamed.name == "weather"
    assert set(streamed.arguments) == {"place"}


async def test_an_answer_fits_the_schema_that_was_asked_for(client: AsyncClient) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    answer = await client.chat(MODEL, "Is it?", json_schema=schema)
    assert answer.json()["ok"] in (True, False)
    chosen = await client.chat(MODEL, "Which?", choices_of=["red", "blue"])
    assert chosen.text in ("red", "blue")


async def test_models_quotes_counts_decisions_and_spend(
    gateway: Serving, client: AsyncClient
) -> None:
    [model] = await client.models()
    assert (model.name, model.replicas_serving, model.remotes) == (MODEL, 1, 0)
    count = await client.count_tokens(MODEL, "one two three")
    assert count.prompt_tokens > 0
    [candidate] = await client.quote(MODEL, "hi", max_output_tokens=5)
    assert (candidate.placement, candidate.chosen, candidate.feasible) == ("own/a", True, True)
    assert candidate.ttft_s is not None
    answer = await client.chat(MODEL, "hi", max_output_tokens=5)
    explanation = await client.explain(answer.request_id)
    assert (explanation.placement, explanation.tier) == ("own/a", "local")
    assert explanation.candidates[0].chosen
    since = datetime.now(UTC) - timedelta(hours=1)
    async with asyncio.timeout(READY_S):
        while not (spend := await client.spend(["model", "tenant"], since=since)).rows:
            await asyncio.sleep(0.05)  # the ledger is written after the answer
    [row] = spend.rows
    assert (row.group, row.requests, row.output_tokens) == ((MODEL, "team"), 1, 5)
    assert await in_thread(gateway, lambda c: c.models()) == (model,)
    assert await in_thread(gateway, lambda c: c.spend(["model", "tenant"], since=since)) == spend


async def test_leaving_a_stream_frees_the_engine(
    gateway: Serving, client: AsyncClient, engine: SimulatedVllm
) -> None:
    async with client.stream(MODEL, "hi", max_output_tokens=20_000, ignore_eos=True) as stream:
        async for _ in stream:
            break
    await until(lambda: engine.open_requests == 0)

    def leave(client: Client) -> None:
        with client.stream(MODEL, "hi", max_output_tokens=20_000) as stream:
            next(iter(stream))

    await in_thread(gateway, leave)
    await until(lambda: engine.open_requests == 0)


async def test_faults_name_the_field(client: AsyncClient) -> None:
    with pytest.raises(MoegateError) as caught:
        await client.chat(MODEL, "hi", temperature=9.0, stop=["a"] * 5)
    error = caught.value
    assert error.code == "INVALID_ARGUMENT"
    assert {field for field, _ in error.faults} == {"sampling.temperature", "stop"}
    assert error.retry_after_s is None
    with pytest.raises(MoegateError) as caught:
        await client.chat("other", "hi")
    assert caught.value.code == "NOT_FOUND"


async def test_a_refusal_says_why_and_when_to_try_again(gateway: Serving) -> None:
    async with AsyncClient(gateway.gateway.address, key=POOR_KEY, attempts=1) as poor:
        await poor.chat(MODEL, "hi", max_output_tokens=1)
        with pytest.raises(MoegateError) as caught:
            await poor.chat(MODEL, "hi", max_output_tokens=1)
    assert (caught.value.code, caught.value.reason) == ("RESOURCE_EXHAUSTED", "KEY_LIMIT")
    assert caught.value.retry_after_s is not None
    assert 0 < caught.value.retry_after_s <= 60
    async with AsyncClient(gateway.gateway.address, key="mg-wrong") as stranger:
        with pytest.raises(MoegateError, match="UNAUTHENTICATED"):
            await stranger.models()


async def test_an_idempotency_key_names_the_first_request(client: AsyncClient) -> None:
    first = await client.chat(MODEL, "hi", max_output_tokens=2, idempotency_key="one")
    with pytest.raises(MoegateError) as caught:
        await client.chat(MODEL, "hi", max_output_tokens=2, idempotency_key="one")
    assert caught.value.code == "ALREADY_EXISTS"
    assert caught.value.request_id == first.request_id


async def test_a_stream_that_breaks_off_leaves_what_came() -> None:
    script = Scripted(frames=[ROLE, word(1), word(2)], end="cut")
    async with (
        upstreams(script) as broken,
        AsyncClient(broken.gateway.address, key=KEY, attempts=1) as client,
    ):
        stream = client.stream(MODEL, "hi")
        with pytest.raises(MoegateError) as caught:
            async for _ in stream:
                pass
    error = caught.value
    assert error.reason == "PARTIAL_OUTPUT"
    assert error.partial is not None
    assert error.partial.text == " w1 w2"
    assert error.usage is not None
    assert error.usage.completion_tokens == 2
