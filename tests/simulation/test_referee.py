"""The referee: its step time, its queue and cache, and that every request ends in every trouble."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.lab.fleets import FLEETS
from benchmarks.referee.cells import TROUBLES, RefereeRun, figures_of, play
from benchmarks.referee.engine import Figures, RefereeEngine, Resident, Size
from benchmarks.referee.fleet import Referee
from scheduler.contract import (
    Action,
    AttemptEnded,
    Event,
    PlacementKind,
    Request,
    Start,
    Tick,
)
from simulation.arrivals import Arrival
from tests.scheduler.requests_made import request

FIGURES = Figures(
    experts=128, experts_per_token=8, fixed_s=3e-3, expert_s=1e-4, each_s=2e-5, memory_s=1e-8,
    token_s=2e-5, attention_s=1e-10,
)  # fmt: skip
SIZE = Size(kv_tokens=20_000, block_tokens=100, sequences=8, step_tokens=1000)


def engine(size: Size = SIZE) -> RefereeEngine:
    return RefereeEngine(FIGURES, size)


def experts_s(tokens: int) -> float:
    return 1e-4 * 128 * (1.0 - (1.0 - 8 / 128) ** tokens)


def test_a_step_pays_its_fixed_part_and_its_experts_once() -> None:
    one = engine()
    one.add(Resident("a", 300, 5))
    one.add(Resident("b", 200, 5))
    pairs = 300 * 150 + 200 * 100
    alone_s = 3e-3 + experts_s(500) + 2 * 2e-5 + 500 * 2e-5 + pairs * 1e-10
    assert one.begin() == pytest.approx(alone_s)
    step = one.finish(1.0)
    assert [resident.name for resident in step.first] == ["a", "b"]
    one.add(Resident("c", 100, 1))
    mixed_s = 3e-3 + experts_s(102) + 3 * 2e-5 + 502 * 1e-8 + 100 * 2e-5 + 100 * 50 * 1e-10
    assert one.begin() == pytest.approx(mixed_s)


def test_long_prompts_are_computed_in_chunks_beside_decodes() -> None:
    one = engine()
    one.add(Resident("short", 100, 50))
    one.begin()
    one.finish(0.1)
    one.add(Resident("long", 2500, 2))
    firsts = []
    for at in range(4):
        one.begin()
        firsts += [(at, resident.name) for resident in one.finish(float(at)).first]
    assert firsts == [(2, "long")], "999 tokens a step, beside one that decodes"
    assert one.running[0].generated == 5


def test_a_prompt_that_others_share_is_found() -> None:
    one = engine()
    for name in ("a", "b"):
        resident = Resident(name, 350, 1, content=("x", "y", "z"))
        one.add(resident)
        while one.has_work:
            one.begin()
            one.finish(0.0)
        assert resident.cached_tokens == (300 if name == "b" else 0)
    assert one.used_tokens == 0


def test_the_end_of_a_prompt_is_dropped_before_its_beginning_as_vllm_does() -> None:
    one = engine(Size(kv_tokens=1000, block_tokens=100, step_tokens=1000))
    kept, other = (tuple((name, at) for at in range(8)) for name in ("kept", "other"))
    found = []
    for content, tokens in ((kept, 810), (other, 410), (kept, 810)):
        resident = Resident("a", tokens, 1, content=content[: tokens // 100])
        one.add(resident)
        one.begin()
        one.finish(1.0)
        found.append(resident.cached_tokens)
    assert found == [0, 0, 500]


def tight(kv_tokens: int, step_tokens: int = 12) -> RefereeEngine:
    return engine(Size(kv_tokens=kv_tokens, block_tokens=4, sequences=4, step_tokens=step_tokens))


def stepped(one: RefereeEngine, at_s: float) -> tuple[dict[str, int], list[str]]:
    """Tokens of the step that ends at `at_s`, by request, and who waits meanwhile."""
    computed = {resident.name: resident.computed for resident in one.running}
    waited = list(one.waiting)
    one.begin()
    waits = [resident.name for resident in one.waiting]
    ran = [*one.running]
    found = {r.name: r.computed for r in waited if r.name not in waits}
    one.finish(at_s)
    before = computed | found
    return {r.name: r.computed - before[r.name] for r in ran}, waits


def test_the_last_admitted_gives_its_room_to_the_others_and_goes_on_when_they_have_ended() -> None:
    one = tight(13)
    for name in "ab":
        one.add(Resident(name, 4, 6))
    rows = [stepped(one, 1.0), stepped(one, 2.0), stepped(one, 3.0)]
    one.add(Resident("c", 1, 1))
    rows += [stepped(one, float(at)) for at in range(4, 10)]
    assert rows == [
        ({"a": 4, "b": 4}, []),
        ({"a": 1, "b": 1}, []),
        ({"a": 1, "b": 1}, []),
        # 12 of 13 are held: two more do not fit. In such a step nothing is admitted.
        ({"a": 1}, ["b", "c"]),
        # The 7 tokens of b do not fit beside the 8 of a, and c does not pass it.
        ({"a": 1}, ["b", "c"]),
        ({"a": 1}, ["b", "c"]),
        # a has ended; the first block of b is still there.
        ({"b": 3, "c": 1}, []),
        ({"b": 1}, []),
        ({"b": 1}, []),
    ]
    assert not one.has_work
    assert one.preemptions == 1
    assert one.used_tokens == 0


def test_what_is_taken_for_the_others_is_computed_again() -> None:
    one = tight(12)
    for name in "ab":
        one.add(Resident(name, 4, 6))
    rows = [stepped(one, float(at)) for at in range(1, 8)]
    # The sixth token of a took the block of b.
    assert rows[3:] == [({"a": 1}, ["b"])] * 3 + [({"b": 7}, [])]


def test_a_prompt_in_part_leaves_when_the_rest_does_not_fit() -> None:
    one = tight(20, step_tokens=8)
    one.add(Resident("a", 7, 10))
    rows = [stepped(one, 1.0)]
    b = Resident("b", 12, 1)
    one.add(b)
    rows += [stepped(one, float(at)) for at in range(2, 12)]
    assert rows[:3] == [({"a": 7}, []), ({"a": 1, "b": 7}, []), ({"a": 1}, ["b"])]
    assert rows[3:] == [({"a": 1}, ["b"])] * 7 + [({"b": 8}, [])], "4 were there still"
    assert b.cached_tokens == 0, "it had found nothing when it was first admitted"


def test_the_longest_gap_of_a_stream_has_the_time_in_which_it_was_preempted() -> None:
    one = tight(13)
    a, b = Resident("a", 4, 6), Resident("b", 4, 6)
    one.add(a)
    one.add(b)
    for at in (1.0, 2.0, 3.0, 10.0, 11.0, 12.0, 20.0, 21.0, 22.0):
        one.begin()
        one.finish(at)
    assert not one.has_work
    assert b.longest_gap_s == 20.0 - 3.0
    assert a.longest_gap_s == 0.0, "no step computed a prompt beside it"
    assert one.decoded_gaps == 10


def test_who_waits_holds_no_block_that_those_need_who_run() -> None:
    one = tight(24, step_tokens=30)
    one.add(Resident("first", 8, 1, content=("x", "y")))
    one.add(Resident("runs", 13, 11))
    assert stepped(one, 1.0) == ({"first": 8, "runs": 13}, [])
    one.add(Resident("waits", 12, 1, content=("x", "y", "z")))
    rows = []
    for at in range(2, 13):
        rows.append(stepped(one, float(at)))
        assert one.used_tokens == (12 + at if at < 11 else 0)
    assert rows == [({"runs": 1}, ["waits"])] * 10 + [({"waits": 12}, [])]
    assert one.preemptions == 0


def test_a_request_that_would_never_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="14 tokens"):
        tight(13).add(Resident("long", 10, 4))
    with pytest.raises(ValueError, match="step_tokens"):
        Size(kv_tokens=100, block_tokens=4, sequences=16, step_tokens=8)


requests = st.tuples(
    st.integers(1, 30),  # prompt tokens
    st.integers(1, 30),  # output tokens
    st.integers(0, 2),  # which of three prefixes
    st.integers(0, 5),  # steps before it arrives
)


@settings(deadline=None)
@given(st.lists(requests, min_size=1, max_size=12), st.integers(60, 130), st.integers(4, 40))
def test_the_oldest_always_goes_on_and_all_end(
    load: list[tuple[int, int, int, int]], kv_tokens: int, step_tokens: int
) -> None:
    one = tight(kv_tokens, step_tokens)
    due: deque[tuple[int, Resident]] = deque()
    at = 0
    for number, (prompt, output, prefix, gap) in enumerate(load):
        at += gap
        content = [(prefix, block) for block in range(prompt // 4)]
        due.append((at, Resident(f"r{number}", prompt, output, content)))
    total = sum(prompt + output for prompt, output, _, _ in load)
    step = 0
    while due or one.has_work:
        while due and due[0][0] <= step:
            one.add(due.popleft()[1])
        before, preemptions = list(one.running), one.preemptions
        done = before[0].computed if before else 0
        one.begin()
        assert one.used_tokens <= kv_tokens
        kept = before[: len(one.running)]
        if one.preemptions > preemptions:
            assert one.running == kept, "the last ones left, and nothing was admitted"
        elif before:
            assert one.running[: len(before)] == before
        one.finish(float(step))
        assert not before or before[0].computed > done, "the oldest goes on"
        step += 1
        assert step < 100 + 2 * total * len(load)
    assert one.used_tokens == 0


class Follows:
    """Sends the first two requests on arrival, and the third one when the first has ended."""

    def __init__(self, one: RefereeEngine) -> None:
        self.one = one
        self.held: list[Action] = []
        self.ends: dict[str, int] = {}
        """Step of the engine that gave each request its last token."""

    def submit(self, request: Request, now: float) -> Sequence[Action]:
        """Every request is for the only engine."""
        start = Start(
            request_id=request.request_id, attempt=1, placement="p", reason="only",
            kind=PlacementKind.SELF_HOSTED, predicted_ttft_s=None, predicted_tpot_s=None,
        )  # fmt: skip
        if request.request_id != "follows":
            return (start,)
        self.held.append(start)
        return ()

    def handle(self, event: Event, now: float) -> Sequence[Action]:
        """Nothing but an end matters."""
        held: Sequence[Action] = ()
        if isinstance(event, AttemptEnded):
            self.ends[event.request_id] = self.one.steps
            held, self.held = self.held, []
        return held

    def tick(self, now: float) -> Tick:
        """Time alone starts nothing."""
        return Tick(actions=(), next_wake_s=None)


def test_what_is_sent_at_the_end_of_a_step_waits_for_the_next_one_which_has_begun() -> None:
    load = [
        Arrival(request=request(name, arrival_s=0.0, prompt_tokens=100), output_tokens=tokens)
        for name, tokens in (("ends", 2), ("decodes", 6), ("follows", 1))
    ]
    one = engine()
    decider = Follows(one)
    Referee(["p"], [one], decider).run(load)
    assert decider.ends == {"ends": 2, "follows": 4, "decodes": 7}


def test_its_figures_differ_from_what_the_scheduler_believes() -> None:
    for fleet in FLEETS.values():
        prior, truth = fleet.step_model, figures_of(fleet.step_model)
        decode_s = truth.fixed_s + truth.expert_s * prior.experts
        believed_s = prior.base_s + prior.expert_s * prior.overlap * prior.experts
        assert not math.isclose(decode_s, believed_s, rel_tol=0.03)
        assert not math.isclose(truth.token_s, prior.prefill_token_s, rel_tol=0.03)


@pytest.mark.parametrize("trouble", TROUBLES)
def test_every_request_ends_in_every_trouble(trouble: str) -> None:
    for policy in ("ours", "least-request"):
        found = play(
            RefereeRun(
                fleet="qwen",
                trace="azure-conv",
                load=0.7,
                policy=policy,
                seed=1,
                count=150,
                folder=None,
                trouble=trouble,
            )
        )
        assert 0.0 < found.met <= 1.0 - found.refused
        assert found.powered > 0.0
