"""KV events on the wire: which of them become changes of a cache."""

from __future__ import annotations

import msgspec
import pytest

from gateway.upstream.vllm.kv_event_format import SLICE_BLOCKS, BadEvents, EventReader
from scheduler.prefix.token_blocks import BlocksRemoved, BlocksStored, CacheReset
from tests.scheduler.kv_made import CLEARED, SIZE, batch, engine_hash, removed, stored

PROMPT = tuple(range(3 * SIZE))


def read(*events: dict[str, object]) -> list[object]:
    return list(EventReader().read(batch(*events)))


def test_blocks_come_go_and_are_cleared() -> None:
    found = read(stored(PROMPT), removed(PROMPT), CLEARED)
    hashes = tuple(engine_hash(PROMPT[: (i + 1) * SIZE]) for i in range(3))
    assert found == [
        BlocksStored(
            hashes=hashes, parent=None, token_ids=list(PROMPT), block_tokens=SIZE, salt=""
        ),
        BlocksRemoved(hashes=hashes[-1:]),
        CacheReset(known=True, emptied=True),
    ]


@pytest.mark.parametrize(
    "event",
    [
        stored(PROMPT, medium="CPU"),
        removed(PROMPT, medium="CPU"),
        stored(PROMPT, kv_cache_spec_kind="sliding_window"),
        {"type": "SomethingNew", "field": 1},
    ],
)
def test_other_tiers_groups_and_kinds_are_skipped(event: dict[str, object]) -> None:
    assert read(event) == []


def test_only_the_first_group_that_keeps_the_context_counts() -> None:
    reader = EventReader()
    first = reader.read(batch(stored(PROMPT, group_idx=1)))
    other = reader.read(batch(stored(PROMPT, group_idx=2), removed(PROMPT, group_idx=2)))
    same = reader.read(batch(removed(PROMPT, group_idx=1)))
    assert (len(first), other, len(same)) == (1, [], 1)


def salts(event: dict[str, object]) -> list[tuple[int, str | None]]:
    """Blocks and salt of each change."""
    changes = read(event)
    return [(len(c.hashes), c.salt) for c in changes if isinstance(c, BlocksStored)]


def test_blocks_that_more_than_tokens_and_a_salt_identify_have_no_salt() -> None:
    assert salts(stored(PROMPT, salt="tenant")) == [(3, "tenant")]
    assert salts(stored(PROMPT, extra_keys=[None, ["image"], None])) == [(1, ""), (2, None)]
    assert salts(stored(PROMPT, lora_name="l")) == [(3, None)]
    assert salts(stored(PROMPT, extra_keys=None)) == [(3, None)]
    assert salts({**stored(PROMPT), "token_ids": [1]}) == [(3, None)]


def test_blocks_of_an_adapter_are_named_by_it_as_clients_do() -> None:
    keys = [["sql-v3", "tenant"], ["sql-v3"], ["sql-v3"]]
    event = stored(PROMPT, lora_id=1, lora_name="sql-v3", extra_keys=keys)
    for reader, name in ((EventReader(), "sql-v3"), (EventReader({"sql-v3": "sql"}), "sql")):
        [found] = reader.read(batch(event))
        assert isinstance(found, BlocksStored)
        assert (len(found.hashes), found.salt, found.adapter) == (3, "tenant", name)
    keys[1] = ["sql-v3", "image"]
    changes = read(stored(PROMPT, lora_id=1, lora_name="sql-v3", extra_keys=keys))
    assert [(len(c.hashes), c.salt) for c in changes if isinstance(c, BlocksStored)] == [
        (1, "tenant"),
        (2, None),
    ]


def test_long_events_come_in_slices_that_follow_each_other() -> None:
    prompt = tuple(range((SLICE_BLOCKS + 5) * SIZE))
    first, second = read(stored(prompt))
    assert isinstance(first, BlocksStored)
    assert isinstance(second, BlocksStored)
    assert (len(first.hashes), len(second.hashes)) == (SLICE_BLOCKS, 5)
    assert second.parent == first.hashes[-1]
    assert [*first.token_ids, *second.token_ids] == list(prompt)


@pytest.mark.parametrize(
    "payload",
    [
        b"\xc1",
        b"",
        msgspec.msgpack.encode({"no": "batch"}),
        batch({"no": "type"}),
        batch({"type": "BlockStored"}),
        batch(stored(PROMPT, block_size=0)),
        batch(stored(PROMPT, block_size=1 << 62)),
        batch({**stored(PROMPT), "token_ids": [-1]}),
    ],
)
def test_what_is_no_event_is_refused(payload: bytes) -> None:
    with pytest.raises(BadEvents):
        EventReader().read(payload)
