"""Chained hashes of prompts, and the index that finds them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.generation import Chat, Generation, Image, Message, Role
from gateway.domain.slices import finish
from gateway.pipeline.prefix_blocks import (
    BLOCK_BYTES,
    MAX_BLOCKS,
    prefix_blocks,
    token_blocks,
)
from scheduler.prefix.prefix_index import PrefixIndex


def generation(*texts: str | Image, model: str = "moe") -> Generation:
    roles = (Role.USER, Role.ASSISTANT)
    messages = tuple(Message(role=roles[i % 2], parts=(text,)) for i, text in enumerate(texts))
    return Generation(
        request_id="r", model=model, input=Chat(messages=messages), max_output_tokens=9
    )


async def test_a_longer_conversation_begins_with_the_blocks_of_the_shorter() -> None:
    first = "question " * 2000
    short, tokens, _ = finish(prefix_blocks(generation(first), "", 4000))
    longer, _, _ = finish(prefix_blocks(generation(first, "answer", "more " * 900), "", 5000))
    assert len(short) == len(first) // BLOCK_BYTES
    assert longer[: len(short)] == short
    assert len(longer) > len(short)
    assert tokens * len(short) <= 4000
    other_salt, _, _ = finish(prefix_blocks(generation(first), "tenant", 4000))
    other_model, _, _ = finish(prefix_blocks(generation(first, model="b"), "", 4000))
    changed, _, _ = finish(prefix_blocks(generation("x" + first), "", 4000))
    assert not set(short) & (set(other_salt) | set(other_model) | set(changed))


async def test_token_ids_and_pictures_are_hashed_and_the_work_is_bounded() -> None:
    ids = Generation(request_id="r", model="moe", input=tuple(range(5000)), max_output_tokens=9)
    blocks, tokens, _ = finish(prefix_blocks(ids, "", 5000))
    assert (len(blocks), tokens) == (9, 512)
    pictures = [generation(Image(data=bytes([i]) * 9000), "x" * 5000) for i in range(2)]
    (one, _, _), (two, _, _) = [finish(prefix_blocks(made, "", 2000)) for made in pictures]
    assert one
    assert not set(one) & set(two)
    huge, _, _ = finish(prefix_blocks(generation("y" * (6 << 20)), "", 1_500_000))
    assert len(huge) == MAX_BLOCKS


async def test_blocks_of_token_ids_are_named_by_salt_and_adapter() -> None:
    ids = Generation(request_id="r", model="moe", input=tuple(range(50)), max_output_tokens=9)
    (plain,) = finish(token_blocks(ids, "", (16,)))
    assert len(plain.names) == 3
    (salted,) = finish(token_blocks(ids, "tenant", (16,)))
    (adapted,) = finish(token_blocks(ids, "", (16,), adapter="tenant"))
    (both,) = finish(token_blocks(ids, "tenant", (16,), adapter="tenant"))
    named = [plain.names, salted.names, adapted.names, both.names]
    assert len({name for names in named for name in names}) == 12


def test_hits_are_the_leading_blocks_that_a_placement_holds() -> None:
    index = PrefixIndex(3)
    index.add(0, (1, 2, 3), 100)
    index.add(1, (1, 2), 100)
    assert index.hit_blocks((1, 2, 3, 4)).tolist() == [3, 2, 0]
    assert index.hit_blocks((9, 2, 3)).tolist() == [0, 0, 0]
    assert index.hit_blocks(()).tolist() == [0, 0, 0]
    index.forget(0)
    assert index.hit_blocks((1, 2, 3)).tolist() == [0, 2, 0]
    assert len(index) == 2


def test_the_least_recently_used_blocks_go_first_and_the_deepest_of_them() -> None:
    index = PrefixIndex(1)
    index.add(0, (1, 2, 3), 4)
    index.add(0, (7, 8), 4)
    assert index.hit_blocks((1, 2, 3)).tolist() == [2], "its last block made room"
    index.add(0, tuple(range(100, 120)), 4)
    assert len(index) == 4
    assert index.hit_blocks(tuple(range(100, 120))).tolist() == [4]


@given(
    st.lists(st.tuples(st.integers(0, 2), st.lists(st.integers(0, 12), max_size=8)), max_size=30)
)
def test_the_index_stays_bounded_and_never_claims_what_was_not_sent(
    sent: list[tuple[int, list[int]]],
) -> None:
    index = PrefixIndex(3)
    seen: dict[int, set[int]] = {0: set(), 1: set(), 2: set()}
    for placement, blocks in sent:
        index.add(placement, tuple(dict.fromkeys(blocks)), 5)
        seen[placement] |= set(blocks)
    assert len(index) <= 15
    for block in range(13):
        for placement, hits in enumerate(index.hit_blocks((block,))):
            assert not hits or block in seen[placement]
