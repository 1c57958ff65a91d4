"""Load of others on a group whose ranks report apart."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.metering.external_load import STALE_NS, ExternalLoad, Own
from scheduler.metering.totals import SECOND_NS
from scheduler.step_time.step_model import QWEN3_30B_H100
from tests.scheduler.meters_made import report

PROMPT_TOKENS = 1000


def take(
    load: ExternalLoad,
    second: int,
    running: int,
    prompt_tokens: int = 0,
    *,
    rank: int,
    own: int = 0,
    waiting: int = 0,
) -> None:
    now_ns = second * SECOND_NS
    load.take(
        replace(report(now_ns, running, waiting, prompt_tokens), placement=f"own/a/{rank}"),
        Own(sequences=own, decoding=own, kv_tokens=0),
        QWEN3_30B_H100,
        now_ns,
        pending=0,
        sent_since=0,
    )


@pytest.mark.parametrize("ranks", [1, 4])
def test_own_prompts_are_not_taken_for_others_whatever_rank_computed_them(ranks: int) -> None:
    load = ExternalLoad()
    for second in range(10):
        for rank in range(ranks):
            # Others' sequences run on each; the prompts are own ones, one a second on each rank.
            take(load, second, 3, second * PROMPT_TOKENS, rank=rank)
        for _ in range(ranks):
            load.prompt_done(PROMPT_TOKENS)
    assert load.sequences == 3 * ranks
    assert load.prefill_share == 0.0


@pytest.mark.parametrize("ranks", [1, 4])
def test_others_prompts_take_their_share_of_each_rank(ranks: int) -> None:
    load = ExternalLoad()
    for second in range(40):
        for rank in range(ranks):
            take(load, second, 3, second * PROMPT_TOKENS, rank=rank)
    share = PROMPT_TOKENS * QWEN3_30B_H100.prefill_token_s
    assert load.prefill_share == pytest.approx(share, rel=1e-3)


def test_ranks_that_a_reload_has_taken_away_are_no_load() -> None:
    load = ExternalLoad()
    for rank in range(4):
        take(load, 0, 8, rank=rank, own=32)
    for second in range(1, 12):
        for rank in range(2):  # the engine was started anew with two
            take(load, second, 16, second * PROMPT_TOKENS, rank=rank, own=32)
    assert (load.sequences, load.kv_tokens) == (0, 0)


def test_a_queue_that_nobody_tells_of_any_more_is_forgotten() -> None:
    load = ExternalLoad()
    take(load, 1, 3, rank=0, own=3, waiting=2)
    assert load.waiting == 2
    assert load.expire(SECOND_NS + STALE_NS + 1)
    assert load.waiting == 0


def test_a_cache_that_is_not_told_does_not_make_others_free() -> None:
    load, own = ExternalLoad(), Own(sequences=2, decoding=2, kv_tokens=600)
    for second in range(2):
        now_ns = second * SECOND_NS
        told = replace(report(now_ns, 5, 0, 0), kv_usage=None, prompt_tokens_total=None)
        load.take(told, own, QWEN3_30B_H100, now_ns, pending=0, sent_since=0)
    assert (load.sequences, load.kv_tokens, load.prefill_share) == (3, 900, 0.0)
    unknown = replace(report(2 * SECOND_NS, 5, 0, 0), running=None)
    load.take(unknown, own, QWEN3_30B_H100, 2 * SECOND_NS, pending=0, sent_since=0)
    assert (load.sequences, load.kv_tokens, load.waiting) == (0, 0, 0)


def test_the_slots_of_a_group_are_those_that_all_its_ranks_tell() -> None:
    load = ExternalLoad()
    assert load.max_running is None
    for rank, told in enumerate((8, 8)):
        one = replace(report(0, 0, 0), placement=f"own/a/{rank}", max_running=told)
        load.take(one, Own(0, 0, 0), None, 0, pending=0, sent_since=0)
    assert load.max_running == 16
