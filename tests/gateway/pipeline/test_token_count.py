"""Tokens of a prompt: counted by a replica that can, else bounded from above by its bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.generation import (
    Chat,
    Generation,
    Image,
    JsonSchema,
    Message,
    Role,
    Signature,
    Tool,
    ToolCall,
)
from gateway.domain.outcomes import RequestRefused
from gateway.domain.prompt_bound import prompt_token_bound
from gateway.pipeline.token_count import exact_prompt_tokens
from gateway.upstream.scripted import ScriptedUpstream, text_answer
from scheduler.contract import PlacementKind, RefusalReason
from scheduler.fleet_view import PlacementView, fleet_view
from tests.gateway.pipeline.rig import answer, call, generation, running, use_prices
from tests.virtual_time import in_virtual_time


class Counting:
    """A client that counts, or fails."""

    def __init__(self, tokens: int, failure: FailureKind | None = None) -> None:
        self.tokens, self.failure, self.asked = tokens, failure, 0

    async def count_tokens(self, generation: Generation) -> tuple[int, object]:
        self.asked += 1
        if self.failure is not None:
            raise UpstreamFailure(self.failure, "scripted")
        return self.tokens, None


def view(
    name: str, *, kind: PlacementKind = PlacementKind.SELF_HOSTED, serving: bool = True
) -> PlacementView:
    return PlacementView(
        name=name,
        kind=kind,
        model="moe",
        pool="own",
        replica=name,
        group=name,
        address="",
        upstream_model="",
        serving=serving,
        reason="",
        context_tokens=None,
    )


def counted(clients: Mapping[str, object], *placements: PlacementView) -> int | None:
    fleet = fleet_view(placements, {})
    return asyncio.run(exact_prompt_tokens(fleet, clients, generation()))


def test_the_first_replica_in_service_that_can_count_is_asked() -> None:
    clients = {
        "remote": Counting(1),
        "out": Counting(2),
        "no counter": object(),
        "busy": Counting(3, FailureKind.BUSY),
        "good": Counting(4),
        "later": Counting(5),
    }
    placements = [
        view("remote", kind=PlacementKind.REMOTE),
        view("out", serving=False),
        view("no client"),
        view("no counter"),
        view("busy"),
        view("good"),
        view("later"),
    ]
    assert counted(clients, *placements) == 4
    asked = [name for name, client in clients.items() if getattr(client, "asked", 0)]
    assert asked == ["busy", "good"]


def test_nobody_can_count() -> None:
    assert counted({}, view("a")) is None
    assert counted({"a": Counting(1, FailureKind.CONNECT)}, view("a")) is None


def test_a_prompt_that_is_at_fault_is_not_counted_elsewhere() -> None:
    other = Counting(2)
    with pytest.raises(UpstreamFailure):
        counted(
            {"a": Counting(1, FailureKind.BAD_REQUEST), "b": other},
            view("a"),
            view("b"),
        )
    assert other.asked == 0


TEXT = st.text(max_size=20)
PARTS = st.lists(TEXT | st.builds(Image, data=st.binary(max_size=9)), max_size=3).map(tuple)
CALLS = st.lists(st.builds(ToolCall, index=st.just(0), name=TEXT, arguments_json=TEXT), max_size=2)
MESSAGES = st.builds(
    Message,
    role=st.sampled_from(Role),
    parts=PARTS,
    name=TEXT,
    tool_calls=CALLS.map(tuple),
    reasoning_text=TEXT,
)
TOOLS = st.builds(Tool, name=TEXT, description=TEXT, parameters_json_schema=TEXT)
SCHEMAS = st.builds(JsonSchema, name=TEXT, schema_json=TEXT, strict=st.booleans())
CHATS = st.builds(
    Chat,
    messages=st.lists(MESSAGES, max_size=3).map(tuple),
    tools=st.lists(TOOLS, max_size=2).map(tuple),
    json_schema=st.none()
    | st.builds(JsonSchema, name=TEXT, schema_json=TEXT, strict=st.booleans()),
)


def texts_of(chat: Chat) -> list[str]:
    """Every text that a template may show to the model."""
    texts = [
        text
        for tool in chat.tools
        for text in (tool.name, tool.description, tool.parameters_json_schema)
    ]
    if chat.json_schema is not None:
        texts.append(chat.json_schema.schema_json)
    for message in chat.messages:
        texts += [message.name, message.reasoning_text]
        texts += [part for part in message.parts if isinstance(part, str)]
        for made in message.tool_calls:
            texts += [made.name, made.arguments_json]
    return texts


@given(chat=CHATS)
def test_the_bound_of_a_chat_is_above_a_token_for_every_byte(chat: Chat) -> None:
    images = sum(isinstance(part, Image) for m in chat.messages for part in m.parts)
    size = sum(len(text.encode()) for text in texts_of(chat)) + 2048 * images
    assert prompt_token_bound(generation(input=chat)) > size + 4 * len(chat.messages)


def test_the_bound_counts_signatures_as_their_server_reads_them() -> None:
    signed = (Signature(origin="a", data=b"x" * 1000),)
    call = ToolCall(index=0, id="c", name="f", arguments_json="{}")

    def bound(message: Message) -> int:
        return prompt_token_bound(generation(input=Chat(messages=(message,))))

    plain = Message(role=Role.ASSISTANT, parts=("Hi",), tool_calls=(call,))
    on_both = structs.replace(
        plain, signatures=signed, tool_calls=(structs.replace(call, signatures=signed),)
    )
    assert bound(on_both) == bound(plain) + 2000


@given(prompt=TEXT, token_ids=st.lists(st.integers(0, 9), max_size=9))
def test_the_bound_of_a_raw_prompt(prompt: str, token_ids: list[int]) -> None:
    assert prompt_token_bound(generation(input=prompt)) > len(prompt.encode())
    assert prompt_token_bound(generation(input=tuple(token_ids))) == len(token_ids)


class CountingUpstream(ScriptedUpstream):
    """A scripted replica that can count, after a turn of the loop."""

    async def count_tokens(self, generation: Generation) -> tuple[int, object]:
        await asyncio.sleep(0)
        return 3, None


@in_virtual_time
async def test_a_prompt_is_counted_where_its_bound_costs_too_much() -> None:
    """The text of 400 bytes is bounded by 416 tokens, and has 3; each token costs 1 nano-USD."""
    prompt = generation(input="x" * 400, max_output_tokens=10)
    async with running({"own/a": CountingUpstream(text_answer("one"))}) as rig:
        use_prices(rig)
        got = await answer(rig, call(prompt, max_cost_nano_usd=20))
        assert got.text == "one"
        rig.assert_all_over()


@in_virtual_time
async def test_a_prompt_that_nobody_can_count_costs_its_bound() -> None:
    prompt = generation(input="x" * 400, max_output_tokens=10)
    async with running({"own/a": ScriptedUpstream(text_answer("one"))}) as rig:
        use_prices(rig)
        with pytest.raises(RequestRefused) as caught:
            await answer(rig, call(prompt, max_cost_nano_usd=20))
        assert caught.value.reason is RefusalReason.MAX_COST
        assert not rig.scheduler.request_ends
        rig.assert_all_over()


class Unreadable(ScriptedUpstream):
    """A scripted replica that finds every prompt at fault."""

    async def count_tokens(self, generation: Generation) -> tuple[int, object]:
        raise UpstreamFailure(FailureKind.BAD_REQUEST, "scripted")


@in_virtual_time
async def test_a_prompt_whose_count_fails_costs_its_bound() -> None:
    prompt = generation(input="x" * 400, max_output_tokens=10)
    async with running({"own/a": Unreadable(text_answer("one"))}) as rig:
        use_prices(rig)
        with pytest.raises(RequestRefused) as caught:
            await answer(rig, call(prompt, max_cost_nano_usd=20))
        assert caught.value.reason is RefusalReason.MAX_COST
        rig.assert_all_over()
