"""Whose prompt is charged when: queues in the engine, what is owed, tokens that never come."""

from __future__ import annotations

import pytest

from scheduler.metering.cost import GroupMeter
from scheduler.metering.runs import Run
from scheduler.metering.totals import HOUR_NS, SECOND_NS, UNIT, accounts_nano_usd, bill_nano_usd
from scheduler.step_time.step_model import QWEN3_30B_H100
from tests.scheduler.meters_made import MS, PLAN, RATE, meter, report, take

PROMPT = 5000
PROMPT_NS = int(QWEN3_30B_H100.prefill_time_s(PROMPT, PROMPT, batch=2) * 1e9)
PROMPT_COST = RATE * PROMPT_NS // HOUR_NS
BEGIN_NS = SECOND_NS


def with_a_queue(waiting: int) -> tuple[GroupMeter, Run, list[Run]]:
    """Two decode, `waiting` are queued by the engine, which said so at `BEGIN_NS`."""
    group = meter()
    decoding = [group.start(0, prompt_tokens=100) for _ in range(2)]
    for run in decoding:
        group.progress(run, 1, BEGIN_NS - 500 * MS)
    queued = [group.start(BEGIN_NS, prompt_tokens=PROMPT) for _ in range(waiting)]
    take(group, report(BEGIN_NS, running=2, waiting=waiting), BEGIN_NS)
    return group, decoding[0], queued


def test_what_is_sent_while_the_engine_queues_is_behind_the_queue() -> None:
    group, _, queued = with_a_queue(waiting=1)
    later = group.start(BEGIN_NS + 10 * MS, prompt_tokens=PROMPT)
    group.advance(BEGIN_NS + SECOND_NS)
    assert later.prefill == queued[0].prefill == 0


def test_what_was_sent_since_a_report_is_behind_the_queue_that_it_tells_of() -> None:
    group, _, queued = with_a_queue(waiting=1)
    later = group.start(BEGIN_NS + 900 * MS, prompt_tokens=PROMPT)
    told_ns = BEGIN_NS + 800 * MS
    group.report(report(told_ns, running=2, waiting=1), told_ns, BEGIN_NS + SECOND_NS)
    group.advance(BEGIN_NS + 2 * SECOND_NS)
    assert later.prefill == queued[0].prefill == 0


def test_one_that_leaves_lets_one_prompt_in_and_not_one_more_at_each_report() -> None:
    group, decoding, queued = with_a_queue(waiting=3)
    group.end(decoding, BEGIN_NS, output_tokens=1)
    for step in range(1, 5):
        now_ns = BEGIN_NS + step * 2 * PROMPT_NS
        take(group, report(now_ns, running=2, waiting=2), now_ns)
    assert queued[0].prefill > 0
    assert queued[1].prefill == queued[2].prefill == 0


def test_a_prompt_that_was_computed_unseen_is_owed_and_paid_at_once() -> None:
    group, decoding, queued = with_a_queue(waiting=1)
    first_ns = BEGIN_NS + 500 * MS
    group.progress(queued[0], 1, first_ns)
    before = group.totals.decode
    group.advance(first_ns + PROMPT_NS // 2)
    assert queued[0].prefill // UNIT == pytest.approx(PROMPT_COST / 2, rel=0.01)
    assert group.totals.decode == before  # the others paid for it when it was computed
    end_ns = first_ns + 3 * PROMPT_NS
    group.end(decoding, end_ns, output_tokens=1)
    share = group.end(queued[0], end_ns, uncached_tokens=PROMPT, output_tokens=1)
    assert share.uncached_input == pytest.approx(PROMPT_COST, rel=0.01)
    assert share.output > 0
    assert sum(accounts_nano_usd(group.totals).values()) == bill_nano_usd(PLAN, 0, end_ns)


def test_one_that_ends_before_it_has_paid_owes_nothing_more() -> None:
    group, _, queued = with_a_queue(waiting=1)
    first_ns = BEGIN_NS + 500 * MS
    group.progress(queued[0], 1, first_ns)
    group.end(queued[0], first_ns, uncached_tokens=PROMPT, output_tokens=1)
    before = (group.totals.prefill, group.totals.decode)
    group.advance(first_ns + 10 * MS)
    assert group.totals.prefill == before[0]
    assert group.totals.decode > before[1]


def test_nobody_owes_more_than_the_time_that_there_was() -> None:
    """A prompt that was in the cache, unknown to the gateway: its token comes early."""
    group = meter()
    run = group.start(0, prompt_tokens=PROMPT)
    group.progress(run, 1, PROMPT_NS // 10)
    group.advance(SECOND_NS)
    assert run.prefill // UNIT == pytest.approx(PROMPT_COST / 10, rel=0.01)


def test_tokens_that_never_come_count_as_decoding_when_the_engine_queues_nothing() -> None:
    group = meter()
    other = group.start(0, prompt_tokens=100)
    group.progress(other, 1, 100 * MS)
    silent = group.start(100 * MS, prompt_tokens=100)
    group.advance(BEGIN_NS)
    assert group.decoding[0] == 1
    take(group, report(BEGIN_NS, running=2, waiting=1), BEGIN_NS)
    assert group.decoding[0] == 1  # it may be the one that waits
    take(group, report(BEGIN_NS + SECOND_NS, running=2), BEGIN_NS + SECOND_NS)
    assert group.decoding[0] == 2
    share = group.end(silent, 3 * SECOND_NS, uncached_tokens=100, output_tokens=50)
    assert share.output == pytest.approx(RATE // 3600 / 2, rel=0.1)
