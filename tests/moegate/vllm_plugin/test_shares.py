"""What requests had of an engine's steps, by the plugin (without vLLM)."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moegate.vllm_plugin import shares as module
from moegate.vllm_plugin.shares import Change, StepShares


@dataclass
class Stats:
    """As vLLM's `RequestStateStats`."""

    scheduled_ts: float = 0.0
    first_token_ts: float = 0.0
    last_token_ts: float = 0.0
    num_preemptions: int = 0


class Engine:
    """Steps one after the other."""

    def __init__(self) -> None:
        self.shares = StepShares()
        self.now_s = 100.0

    def step(
        self, took_s: float, sequences: int = 0, prompts: dict[int, Stats] | None = None
    ) -> None:
        """`prompts`: computed tokens of the requests that get their first token."""
        answered = prompts or {}
        self.now_s += took_s
        self.shares.outputs(self.now_s)
        for tokens, request in answered.items():
            request.first_token_ts = request.last_token_ts = self.now_s
            self.shares.answered(request, tokens)
        self.shares.step(took_s=took_s, sequences=sequences, prefill_tokens=sum(answered))

    def again(
        self, took_s: float, sequences: int, tokens: int, request: Stats, left_s: float
    ) -> None:
        """A request that left the steps at `left_s` is computed again by this step, and answers."""
        begun_s = self.now_s
        self.now_s += took_s
        request.num_preemptions += 1
        request.last_token_ts = self.now_s
        self.shares.outputs(self.now_s)
        changes = [Change(runs=False, at_s=left_s), Change(runs=True, at_s=begun_s)]
        self.shares.answered(request, tokens, changes)
        self.shares.step(took_s=took_s, sequences=sequences, prefill_tokens=tokens)

    def had(self, request: Stats) -> tuple[float, float]:
        had = self.shares.had(request)
        assert had is not None
        return had.prefill_s, had.decode_s


def test_a_lone_request_has_all_of_its_steps() -> None:
    engine, one = Engine(), Stats(scheduled_ts=100.0)
    engine.step(0.03, 0, {32: one})
    for _ in range(9):
        engine.step(0.01, 1)
    one.last_token_ts = engine.now_s
    engine.now_s += 5.0  # idle
    engine.step(0.02, 0, {10: Stats(scheduled_ts=engine.now_s)})
    assert engine.had(one) == pytest.approx((0.03, 0.09))


def test_a_step_is_divided_among_its_sequences_and_its_prompts() -> None:
    engine, one = Engine(), Stats(scheduled_ts=100.0)
    engine.step(0.03, 0, {32: one})
    for _ in range(4):
        engine.step(0.01, 1)
    two, three = Stats(scheduled_ts=engine.now_s), Stats(scheduled_ts=engine.now_s)
    engine.step(0.05, 1, {30: two, 10: three})  # 0.01 of it for the sequence that decodes
    for _ in range(3):
        engine.step(0.012, 3)
    for request in (one, two, three):
        request.last_token_ts = engine.now_s
    assert engine.had(one) == pytest.approx((0.03, 0.04 + 0.01 + 0.012))
    assert engine.had(two) == pytest.approx((0.03, 0.012))
    assert engine.had(three) == pytest.approx((0.01, 0.012))


def test_a_prompt_of_several_steps_has_its_part_of_each() -> None:
    engine, one = Engine(), Stats(scheduled_ts=100.0)
    engine.shares.outputs(100.02)
    engine.shares.step(took_s=0.02, sequences=0, prefill_tokens=100)
    engine.now_s = 100.02
    engine.step(0.04, 0, {200: one})  # 100 tokens in each step, and 100 of another in the second
    assert engine.had(one)[0] == pytest.approx(0.06 * 200 / 300)


def test_steps_without_outputs_follow_one_another() -> None:
    engine, one = Engine(), Stats(scheduled_ts=100.0)
    engine.step(0.01, 0, {8: one})
    engine.shares.step(took_s=0.02, sequences=0, prefill_tokens=50)  # of a prompt that goes on
    engine.now_s += 0.02
    engine.step(0.01, 1)
    one.last_token_ts = engine.now_s
    assert engine.had(one) == pytest.approx((0.01, 0.01))


def test_who_asks_before_the_last_step_is_divided_has_its_part_of_it() -> None:
    engine, one = Engine(), Stats(scheduled_ts=100.0)
    engine.step(0.01, 0, {8: one})
    engine.step(0.01, 4)
    one.last_token_ts = engine.now_s + 0.02
    assert engine.had(one)[1] == pytest.approx((0.01 + 0.02) / 4)


def test_a_preempted_request_has_no_part_of_the_steps_without_it() -> None:
    engine = Engine()
    one, two = Stats(scheduled_ts=100.0), Stats(scheduled_ts=100.0)
    engine.step(0.03, 0, {20: one, 10: two})
    engine.step(0.01, 2)
    left_s = engine.now_s + 0.001
    for _ in range(5):
        engine.step(0.008, 1)  # one alone
    engine.again(0.028, 1, 40, two, left_s)  # 0.008 of it for the other one
    engine.step(0.01, 2)
    one.last_token_ts = two.last_token_ts = engine.now_s
    assert engine.had(one) == pytest.approx((0.02, 0.005 + 5 * 0.008 + 0.008 + 0.005))
    assert engine.had(two) == pytest.approx((0.01 + 0.02, 0.005 + 0.005))


def test_a_token_that_was_under_way_when_its_request_was_preempted_is_its_own() -> None:
    """Of async scheduling: the event comes with one more output, and the request goes on later."""
    engine, one = Engine(), Stats(scheduled_ts=100.0)
    engine.step(0.03, 0, {20: one})
    engine.now_s += 0.01
    one.num_preemptions, one.last_token_ts = 1, engine.now_s
    engine.shares.outputs(engine.now_s)
    engine.shares.answered(one, 22, [Change(runs=False, at_s=engine.now_s - 0.005)])
    engine.shares.step(took_s=0.01, sequences=1, prefill_tokens=0)
    assert engine.shares.had(one) is None, "it waits to be computed again"
    engine.now_s += 3.0
    begun_s = engine.now_s
    engine.now_s += 0.02
    engine.shares.outputs(engine.now_s)
    engine.shares.answered(one, 22, [Change(runs=True, at_s=begun_s)])
    engine.shares.step(took_s=0.02, sequences=0, prefill_tokens=22)
    engine.step(0.01, 1)
    one.last_token_ts = engine.now_s
    assert engine.had(one) == pytest.approx((0.05, 0.02))


def test_a_prompt_that_is_preempted_pays_for_what_was_computed_of_it() -> None:
    engine, one = Engine(), Stats(scheduled_ts=100.0)
    engine.step(0.02, 0, {100: Stats(scheduled_ts=100.0)})
    engine.shares.outputs(100.06)
    engine.shares.step(took_s=0.04, sequences=0, prefill_tokens=200)  # a chunk of it
    engine.now_s = 100.06
    one.scheduled_ts = 100.02
    one.num_preemptions = 1
    engine.now_s += 1.0
    begun_s = engine.now_s
    engine.now_s += 0.08
    one.first_token_ts = one.last_token_ts = engine.now_s
    engine.shares.outputs(engine.now_s)
    changes = [Change(True, 100.02), Change(False, 100.061), Change(True, begun_s)]
    engine.shares.answered(one, 400, changes)
    engine.shares.step(took_s=0.08, sequences=0, prefill_tokens=400)
    assert engine.had(one) == pytest.approx((0.12, 0.0))


def test_what_is_not_known_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_STEPS", 4)
    engine, one = Engine(), Stats(scheduled_ts=100.0)
    assert engine.shares.had(one) is None
    engine.step(0.01, 0, {8: one})
    assert engine.shares.had(one) is not None
    one.num_preemptions = 1
    assert engine.shares.had(one) is None
    one.num_preemptions = 0
    for _ in range(12):
        engine.step(0.01, 1)
    assert engine.shares.had(one) is None, "it was asked for too late"
    assert len(engine.shares._ends) <= 8


@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.integers(1, 400), st.integers(1, 40)),
        min_size=1,
        max_size=12,
    ),
    st.lists(st.floats(0.001, 0.1), min_size=80, max_size=80),
)
def test_all_requests_together_had_the_time_in_which_the_engine_stepped(
    requests: list[tuple[int, int, int]], times_s: list[float]
) -> None:
    """Each request: the step of its prompt, its prompt tokens, and how many steps it decodes."""
    engine = Engine()
    stats = [Stats() for _ in requests]
    stepped_s = 0.0
    for number, took_s in enumerate(times_s):
        begun_s = engine.now_s
        prompts = [i for i, (at, _, _) in enumerate(requests) if at == number]
        decoding = [i for i, (at, _, steps) in enumerate(requests) if at < number <= at + steps]
        if not prompts and not decoding:
            engine.now_s += took_s
            continue
        stepped_s += took_s
        engine.now_s += took_s
        engine.shares.outputs(engine.now_s)
        for i in prompts:
            stats[i].scheduled_ts = begun_s
            stats[i].first_token_ts = engine.now_s
            engine.shares.answered(stats[i], requests[i][1])
        for i in (*prompts, *decoding):
            stats[i].last_token_ts = engine.now_s
        tokens = sum(requests[i][1] for i in prompts)
        engine.shares.step(took_s=took_s, sequences=len(decoding), prefill_tokens=tokens)
    whole_s = sum(sum(engine.had(one)) for one in stats)
    assert whole_s == pytest.approx(stepped_s, rel=1e-6)
