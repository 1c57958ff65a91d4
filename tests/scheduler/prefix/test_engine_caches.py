"""What engines tell of their prefix caches: hits of prompts in token ids, exactly."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.generation import Generation
from gateway.domain.slices import finish
from gateway.pipeline.prefix_blocks import MAX_TOKEN_BLOCKS, token_blocks
from gateway.upstream.vllm.kv_event_format import SLICE_BLOCKS, BadEvents, EventReader
from scheduler.contract import (
    AttemptEnded,
    AttemptOutcome,
    EngineReport,
    PlacementKind,
    Request,
    ServingChanged,
    Start,
)
from scheduler.core import Scheduler, SchedulerLimits
from scheduler.placement_state import Placement
from scheduler.prefix.engine_caches import MOST_BLOCK_SIZES, EngineCaches
from scheduler.prefix.token_blocks import CacheEvents, CacheReset, TokenBlocks, chain, root
from scheduler.queue.model_queue import QueueLimits
from tests.scheduler.kv_made import CLEARED, SIZE, batch, removed, stored
from tests.scheduler.requests_made import request

PROMPT = tuple(range(1000, 1000 + 10 * SIZE))
BEGINS = CacheReset(known=True, emptied=False)


def cut(token_ids: tuple[int, ...], salt: str = "", size: int = SIZE) -> tuple[TokenBlocks, ...]:
    names = tuple(chain(root(size, salt), token_ids, size))
    return (TokenBlocks(block_tokens=size, names=names),)


class Told:
    """Caches of two placements, told in vLLM's own format."""

    def __init__(self, most_blocks: int = 10_000, ranks: int = 1) -> None:
        self.caches = EngineCaches(2, most_blocks)
        self._readers: dict[tuple[int, int], EventReader] = {}
        self._ranks = ranks

    def begin(self, placement: int = 0, rank: int = 0, now: float = 0.0) -> None:
        self._take(placement, rank, (BEGINS,), now)

    def lose(self, placement: int = 0) -> None:
        self._take(placement, 0, (CacheReset(known=False, emptied=False),), 0.0)

    def tell(self, *events: dict[str, Any], placement: int = 0, rank: int = 0) -> None:
        reader = self._readers.setdefault((placement, rank), EventReader())
        self._take(placement, rank, tuple(reader.read(batch(*events))), 1.0)

    def hits(self, token_ids: tuple[int, ...] = PROMPT, salt: str = "") -> list[float]:
        return [float(hit) for hit in self.caches.hit_tokens(cut(token_ids, salt))]

    def _take(self, placement: int, rank: int, changes: tuple[Any, ...], now: float) -> None:
        events = CacheEvents(placement="p", rank=rank, ranks=self._ranks, changes=changes)
        self.caches.apply_events(placement, events, now)


def test_the_hit_is_the_longest_run_of_leading_blocks() -> None:
    told = Told()
    told.tell(stored(PROMPT[: 4 * SIZE]))
    assert told.hits() == [4 * SIZE, 0]
    told.tell(stored(PROMPT, done=4))
    told.tell(stored(PROMPT[: 2 * SIZE]), placement=1)
    assert told.hits() == [10 * SIZE, 2 * SIZE]
    assert told.hits(PROMPT[: 3 * SIZE] + (7,) * SIZE) == [3 * SIZE, 2 * SIZE]
    assert told.hits((7, *PROMPT[1:])) == [0, 0]
    told.tell(removed(PROMPT[: 6 * SIZE]))
    assert told.hits() == [5 * SIZE, 2 * SIZE], "what follows a gap is no hit"
    told.tell(stored(PROMPT[: 6 * SIZE], done=5))
    assert told.hits() == [10 * SIZE, 2 * SIZE]
    told.tell(CLEARED)
    assert told.hits() == [0, 2 * SIZE]
    assert len(told.caches) == 2


def test_two_copies_of_a_block_go_one_by_one() -> None:
    told = Told()
    told.begin()
    told.tell(stored(PROMPT), stored(PROMPT))
    assert told.caches.held_tokens(0) == 20 * SIZE
    told.tell(removed(PROMPT[:SIZE]))
    assert told.hits()[0] == 10 * SIZE
    told.tell(removed(PROMPT[:SIZE]))
    assert told.hits()[0] == 0
    assert told.caches.held_tokens(0) == 18 * SIZE


@pytest.mark.parametrize(
    "fields",
    [
        {"lora_name": "sql", "lora_id": 1, "extra_keys": [["sql"]] * 10},
        {"lora_name": "sql"},
        {"extra_keys": [[["picture", 3]], *[None] * 9]},
        {"extra_keys": [["team", ["picture", 3]], *[None] * 9]},
        {"extra_keys": [[b"embeddings"], *[None] * 9]},
        {"extra_keys": None},
        {"extra_keys": [None] * 9},
        {"medium": "CPU"},
        {"kv_cache_spec_kind": "sliding_window"},
        {"block_hashes": list(range(9))},
    ],
)
def test_blocks_of_more_than_tokens_are_no_hits(fields: dict[str, Any]) -> None:
    told = Told()
    told.tell(stored(PROMPT, **fields), stored((*PROMPT, *PROMPT), done=10))
    assert told.hits(PROMPT + PROMPT) == [0, 0]
    for salt in ("team", "sql"):
        assert told.hits(salt=salt) == [0, 0]


def test_a_picture_in_the_middle_ends_the_hit() -> None:
    told = Told()
    extra = [None, None, [["picture", 3]], None, None, None, None, None, None, None]
    told.tell(stored(PROMPT, extra_keys=extra))
    assert told.hits() == [2 * SIZE, 0]


def test_salts_have_caches_of_their_own() -> None:
    told = Told()
    told.tell(stored(PROMPT, salt="a"))
    assert told.hits() == [0, 0]
    assert told.hits(salt="b") == [0, 0]
    assert told.hits(salt="a") == [10 * SIZE, 0]
    told.tell(removed(PROMPT[:SIZE]))
    assert told.hits(salt="a") == [10 * SIZE, 0], "another salt's block"


def test_the_rest_of_other_groups_does_not_count() -> None:
    told = Told()
    told.tell(stored(PROMPT), stored(PROMPT, group_idx=1))
    told.tell(removed(PROMPT[:SIZE], group_idx=1), removed(PROMPT[:SIZE], medium="CPU"))
    assert told.hits() == [10 * SIZE, 0]


def test_unknown_kinds_are_skipped_and_nonsense_is_refused() -> None:
    told = Told()
    told.tell({"type": "BlockMoved", "block_hashes": 3}, stored(PROMPT))
    assert told.hits() == [10 * SIZE, 0]
    wrong: list[dict[str, Any]] = [
        {"token_ids": [-1]},
        {"block_size": 0},
        {"block_hashes": "x"},
        {"type": None},
    ]
    bad = [b"", b"\xff\x00", *(batch({**stored(PROMPT), **fields}) for fields in wrong)]
    for payload in bad:
        with pytest.raises(BadEvents):
            EventReader().read(payload)


def test_long_prompts_come_in_slices_and_hashes_as_bytes_too() -> None:
    long = tuple(range(5 * SLICE_BLOCKS * SIZE // 2))
    event = stored(long)
    event["block_hashes"] = [h.to_bytes(8, "big") for h in event["block_hashes"]]
    changes = EventReader().read(batch(event))
    assert [len(change.hashes) for change in changes if not isinstance(change, CacheReset)] == [
        *(SLICE_BLOCKS, SLICE_BLOCKS, SLICE_BLOCKS // 2)
    ]
    told = Told()
    told.tell(event)
    assert told.hits(long) == [len(long), 0]


def test_memory_is_bounded_and_what_does_not_fit_is_not_claimed() -> None:
    told = Told(most_blocks=6)
    told.begin()
    told.tell(stored(PROMPT))
    assert len(told.caches) == 6
    assert told.hits() == [6 * SIZE, 0]
    assert not told.caches.is_known(0)
    for size in range(1, 2 * MOST_BLOCK_SIZES):
        told.tell(stored(PROMPT, size=size))
    assert len(told.caches.block_sizes) == MOST_BLOCK_SIZES
    assert len(told.caches) <= 6


def test_ranks_are_not_pinned_so_their_mean_is_expected() -> None:
    told = Told(ranks=2)
    told.begin(rank=0)
    told.tell(stored(PROMPT), rank=0)
    assert told.hits() == [5 * SIZE, 0]
    assert not told.caches.is_known(0), "of the other rank nothing is known"
    told.begin(rank=1)
    told.tell(stored(PROMPT[: 4 * SIZE]), rank=1)
    assert told.hits() == [7 * SIZE, 0]
    assert told.caches.is_known(0)


def test_after_a_gap_little_is_known_until_the_engine_starts_anew() -> None:
    told = Told()
    told.begin(now=10.0)
    told.tell(stored(PROMPT))
    told.caches.engine_restarted(0, since_s=9.0)
    assert told.hits() == [10 * SIZE, 0], "its events told of the restart first"
    assert told.caches.known.tolist() == [True, False]
    told.lose()
    assert (told.hits(), told.caches.is_known(0)) == ([0, 0], False)
    told.tell(stored(PROMPT, done=2))
    assert told.hits() == [0, 0], "the first blocks are unknown"
    told.tell(stored(PROMPT))
    assert told.hits() == [10 * SIZE, 0]
    told.caches.engine_restarted(0, since_s=11.0)
    assert told.hits() == [0, 0]


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 3), st.integers(1, 6), st.sampled_from(["", "a"])),
        max_size=40,
    )
)
def test_hits_are_those_of_a_cache_that_is_counted_block_by_block(
    steps: list[tuple[bool, int, int, str]],
) -> None:
    prompts = [tuple([*range(3 * SIZE), *[kind] * (3 * SIZE)]) for kind in range(4)]
    told = Told()
    told.begin()
    held: dict[tuple[tuple[int, ...], str], int] = {}
    for store, kind, depth, salt in steps:
        part = prompts[kind][: depth * SIZE]
        if store:
            told.tell(stored(part, salt=salt))
            for i in range(1, depth + 1):
                key = part[: i * SIZE], salt
                held[key] = held.get(key, 0) + 1
        elif held.get((part, salt)):
            told.tell(removed(part, salt))
            held[part, salt] -= 1
    for prompt in prompts:
        for salt in ("", "a"):
            depth = 0
            while depth < 6 and held.get((prompt[: (depth + 1) * SIZE], salt)):
                depth += 1
            assert told.hits(prompt, salt) == [depth * SIZE, 0]
    assert told.caches.held_tokens(0) == sum(held.values()) * SIZE


async def test_prompts_are_cut_as_engines_do() -> None:
    generation = Generation(request_id="r", model="m", input=PROMPT, max_output_tokens=1)
    (made, other) = finish(token_blocks(generation, "salt", (SIZE, 64)))
    assert made.names == cut(PROMPT, "salt")[0].names[:9], "the last token is always computed"
    assert len(other.names) == 2
    assert not set(made.names) & set(other.names)
    text = Generation(request_id="r", model="m", input="text", max_output_tokens=1)
    assert finish(token_blocks(text, "", (SIZE,))) == ()
    huge = Generation(request_id="r", model="m", input=(1,) * 300_000, max_output_tokens=1)
    (long,) = finish(token_blocks(huge, "", (SIZE,)))
    assert long.names == tuple(chain(root(SIZE, ""), (1,) * MAX_TOKEN_BLOCKS * SIZE, SIZE))


def placement(name: str) -> Placement:
    return Placement(name=name, kind=PlacementKind.SELF_HOSTED, model="moe", max_running=8)


def asked(request_id: str, **fields: Any) -> Request:
    made = request(request_id, prompt_tokens=len(PROMPT), prompt_tokens_exact=True, **fields)
    return made


def expected(scheduler: Scheduler, made: Request) -> dict[str, int]:
    decision = scheduler.quote(made, 1.0)
    return {c.placement: c.hit_tokens for c in decision.candidates()}


def tell(scheduler: Scheduler, name: str, *changes: Any) -> None:
    events = CacheEvents(placement=name, rank=0, ranks=1, changes=changes)
    assert scheduler.handle(events, 1.0) == ()


def test_the_scheduler_quotes_what_engines_tell_and_forgets_what_they_cleared() -> None:
    limits = SchedulerLimits(queue=QueueLimits(requests=9, size_bytes=1 << 20), attempts=1)
    scheduler = Scheduler([placement("a"), placement("b")], limits)
    for name in "ab":
        scheduler.handle(ServingChanged(placement=name, serving=True, reason=""), 0.0)
    reader = EventReader()
    tell(scheduler, "a", BEGINS, *reader.read(batch(stored(PROMPT[: 5 * SIZE]))))
    assert scheduler.token_block_sizes("moe") == (SIZE,)
    assert scheduler.token_block_sizes("other") == ()
    blocks = cut(PROMPT)
    both = asked("1", token_blocks=blocks, prefix_blocks=(1, 2), prefix_block_tokens=32)
    assert expected(scheduler, both) == {"a": 5 * SIZE, "b": 0}
    (action,) = scheduler.submit(both, 1.0)
    assert isinstance(action, Start)
    assert action.placement == "a", "the shorter prefill"
    guessed = asked("2", prefix_blocks=(1, 2), prefix_block_tokens=32)
    assert expected(scheduler, guessed) == {"a": 64, "b": 0}, "a text prompt goes by dispatches"
    assert expected(scheduler, both) == {"a": 5 * SIZE, "b": 0}, "tokens by what the engine tells"
    ended = AttemptEnded(request_id="1", attempt=1, outcome=AttemptOutcome.OK, cached_tokens=0)
    scheduler.handle(ended, 1.0)
    assert [state.cache_trust for state in scheduler.placements] == [1.0, 1.0], "it was no guess"
    tell(scheduler, "a", CacheReset(known=False, emptied=False))
    assert expected(scheduler, both) == {"a": 64, "b": 0}, "after a gap the guess goes on"
    tell(scheduler, "a", *reader.read(batch(CLEARED)))
    assert expected(scheduler, both) == expected(scheduler, guessed) == {"a": 0, "b": 0}


def test_a_restart_in_the_metrics_and_evictions_bound_what_is_expected() -> None:
    limits = SchedulerLimits(queue=QueueLimits(requests=9, size_bytes=1 << 20), attempts=1)
    scheduler = Scheduler([placement("a")], limits)
    scheduler.handle(ServingChanged(placement="a", serving=True, reason=""), 0.0)
    reader = EventReader()
    tell(scheduler, "a", BEGINS, *reader.read(batch(stored(PROMPT))))
    texts = [
        asked(str(i), prefix_blocks=tuple(range(10 * i, 10 * i + 10)), prefix_block_tokens=16)
        for i in range(3)
    ]
    for text in texts:
        scheduler.submit(text, 1.0)
        # 160 tokens are held and as many under way: 20 blocks of text.
        ended = AttemptEnded(request_id=text.request_id, attempt=1, outcome=AttemptOutcome.OK)
        scheduler.handle(ended, 1.0)
    hits = [expected(scheduler, text)["a"] for text in texts]
    assert hits == [0, 159, 159], "the oldest was pushed out; a whole prompt is never cached"

    def report(at_s: float, tokens: int) -> EngineReport:
        return EngineReport(
            placement="a", at_s=at_s, running=0, waiting=0, kv_usage=0.0,
            prompt_tokens_total=0, generation_tokens_total=tokens,
        )  # fmt: skip

    tokens = asked("tokens", token_blocks=cut(PROMPT))
    scheduler.handle(report(2.0, 50), 2.0)
    assert set(expected(scheduler, tokens).values()) == {len(PROMPT)}
    scheduler.handle(report(3.0, 1), 3.0)
    assert set(expected(scheduler, tokens).values()) == {0}
