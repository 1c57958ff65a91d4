"""The state of a job that runs: its budget is never promised twice, and waits are bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.batch.jobs import Form, Item, Job, JobState, JobTerms, JobTokens
from gateway.batch.running.retries import LONGEST_WAIT_S, MOST_FAILURES, Retry, wait_s
from gateway.batch.running.running_job import RunningJob
from gateway.batch.store.jobs import Claim


def item(number: int, model: str = "m") -> Item:
    return Item(number=number, custom_id=str(number), model=model, start_byte=0, size_bytes=1)


def running(cap: int | None = None) -> RunningJob:
    job = Job(
        job_id="batch_1",
        tenant="team",
        key_id="key",
        form=Form.OPENAI,
        endpoint="",
        file_id="",
        state=JobState.IN_PROGRESS,
        terms=JobTerms(max_cost_nano_usd=cap),
        faults=(),
        items=100,
        succeeded=0,
        failed=0,
        bad_lines=0,
        charged_nano_usd=0,
        unpriced=0,
        tokens=JobTokens(),
        result_bytes=0,
        created_unix_us=0,
        deadline_unix_us=0,
        started_unix_us=0,
        cancelling_unix_us=None,
        ended_unix_us=None,
    )
    return RunningJob(Claim("batch_1", "gw", 1), job, is_ready=True)


@given(
    st.integers(0, 10_000),
    st.lists(
        st.tuples(st.sampled_from(["begin", "end", "more"]), st.integers(0, 2000)), max_size=60
    ),
)
def test_a_budget_is_never_promised_twice(cap: int, steps: list[tuple[str, int]]) -> None:
    """Runs that are charged at most what they were given never pass the cap, whatever the order."""
    job, flying, number = running(cap), [], 0
    for step, amount in steps:
        if step == "begin":
            number += 1
            share = job.begin(item(number))
            assert share is not None
            flying.append((item(number), share))
        elif flying and step == "end":
            one, share = flying.pop(amount % len(flying))
            job.end(one, min(amount, share))
        elif flying:
            one, share = flying.pop()
            job.try_again(one, Retry(for_budget=True), 0.0)
        promised = job.charged_nano_usd + sum(share for _, share in flying)
        assert promised <= cap
        assert sum(job.allotted_nano_usd.values()) == sum(share for _, share in flying)


def test_an_item_that_needs_the_whole_rest_runs_alone() -> None:
    job = running(800)
    job.add_taken("m", [item(1), item(2), item(3)])
    first, second = job.next_item("m"), job.next_item("m")
    assert first is not None
    assert second is not None
    job.begin(first)  # alone: it has everything
    job.tries[1].alone = False
    job.allotted_nano_usd[1] = 100
    assert job.begin(second) == 700 // 8
    job.tasks = {1: None, 2: None}  # type: ignore[dict-item]
    assert job.try_again(second, Retry(for_budget=True), 0.0)
    del job.tasks[2]
    assert job.next_item("m") is None  # until the first one has ended
    del job.tasks[1]
    job.end(first, 100)
    assert job.next_item("m") == second
    assert job.begin(second) == 700
    job.tasks[2] = None  # type: ignore[assignment]
    assert job.next_item("m") is None
    assert not job.try_again(second, Retry(for_budget=True), 0.0)


def test_a_wait_ends_before_others_start() -> None:
    job = running()
    job.add_taken("m", [item(1), item(2)])
    one = job.next_item("m")
    assert one is not None
    assert job.begin(one) is None
    assert job.try_again(one, Retry(5.0), 100.0)
    job.release_due(104.0)
    assert job.next_item("m") == item(2)
    assert not job.is_over
    job.release_due(106.0)
    assert job.next_item("m") == one


def test_failures_are_counted_and_want_of_room_is_not() -> None:
    job = running()
    job.begin(item(1))
    for _ in range(20):
        assert job.try_again(item(1), Retry(), 0.0)
    failed = [job.try_again(item(1), Retry(is_failure=True), 0.0) for _ in range(MOST_FAILURES)]
    assert failed == [True] * (MOST_FAILURES - 1) + [False]


def test_it_is_over_when_nothing_is_left() -> None:
    job = running()
    assert job.is_over
    job.waiting = {"m": 1}
    assert not job.is_over
    assert job.models() == {"m"}
    job.add_taken("m", [item(1)])
    assert job.waiting == {"m": 0}
    assert not job.is_over
    assert job.next_item("m") == item(1)
    assert job.is_over
    job.waiting = {"m": 3}
    job.add_taken("m", [])  # another runner would have had to take them
    assert job.is_over


@given(st.integers(1, 1000), st.none() | st.floats(0, 1e6))
def test_waits_grow_and_are_bounded(tries: int, hint: float | None) -> None:
    assert 0.5 <= wait_s(tries, hint) <= LONGEST_WAIT_S
    assert wait_s(tries, hint) <= wait_s(tries + 1, hint)
