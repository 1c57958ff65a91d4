"""The interference check against its definition, and the learnt lengths that it weighs by."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from scheduler.output_length import MODEL_ROW, OutputLengths
from scheduler.placement.interference import SILENCE_S, STALLS_S, Streams, stall_position

LIMIT_S = 0.05


def lost(lengths: OutputLengths, *, tokens: float, elapsed_s: float, stall_s: float, step_s: float,
         most: int) -> float:  # fmt: skip
    """The module's formula for one stream, by hand."""

    def survival(at: float) -> float:
        return float(lengths.survival(np.array([MODEL_ROW]), np.array([at]))[0])

    late_s = elapsed_s + stall_s - LIMIT_S * (tokens - 1)
    further = abs(late_s) / abs(LIMIT_S - step_s)
    assume(abs(tokens + further - most) > 1e-6)  # which side of the end it is on is rounding there
    lives = 0.0
    if tokens + further < most:
        lives = min(1.0, survival(tokens + further) / survival(tokens))
    if step_s < LIMIT_S:
        return 1.0 - lives if late_s > 0 else 0.0
    return 1.0 if late_s > 0 else lives


@given(
    st.lists(st.tuples(st.integers(1, 400), st.floats(0.0, 20.0)), min_size=1, max_size=5),
    st.sampled_from([0.01, 0.03, 0.049, 0.06]),
)
def test_a_curve_is_the_sum_over_its_streams(seen: list[tuple[int, float]], step_s: float) -> None:
    lengths, streams, now = OutputLengths(), Streams(), 100.0
    for i, (tokens, elapsed_s) in enumerate(seen):
        name = f"r{i}"
        streams.add(name, limit_s=LIMIT_S, most_tokens=500, row=MODEL_ROW)
        streams.first_token(name, now - elapsed_s, in_time=True)
        streams.progress(name, tokens, now)
    curve = streams.curve({}, step_s, lengths, now)
    for stall_s, expected in zip(STALLS_S, curve, strict=True):
        wanted = sum(
            lost(lengths, tokens=tokens, elapsed_s=elapsed_s, stall_s=float(stall_s),
                 step_s=step_s, most=500)
            for tokens, elapsed_s in seen
        )  # fmt: skip
        assert expected == pytest.approx(wanted, abs=1e-6)
    if step_s < LIMIT_S:
        assert (np.diff(curve) >= -1e-9).all(), "a longer stall harms no fewer"


def test_who_missed_its_promise_constrains_nobody_and_rows_may_move() -> None:
    lengths, streams = OutputLengths(), Streams()
    for name in ("a", "b", "late"):
        streams.add(name, limit_s=LIMIT_S, most_tokens=500, row=MODEL_ROW)
    streams.first_token("late", 1.0, in_time=False)
    streams.first_token("a", 1.0, in_time=True)
    streams.first_token("b", 1.0, in_time=True)
    both = streams.curve({}, 0.02, lengths, 1.0 + SILENCE_S)
    streams.remove("a")
    streams.remove("late")
    assert streams.curve({}, 0.02, lengths, 1.0 + SILENCE_S)[-1] == pytest.approx(both[-1] / 2)
    streams.remove("b")
    assert not streams.curve({}, 0.02, lengths, 2.0).any()


def test_a_pending_prefill_is_a_stream_that_begins_when_its_turn_ends() -> None:
    lengths, streams = OutputLengths(), Streams()
    streams.add("soon", limit_s=LIMIT_S, most_tokens=500, row=MODEL_ROW)
    early = streams.curve({"soon": 0.0}, 0.02, lengths, 5.0)
    later = streams.curve({"soon": 2.0}, 0.02, lengths, 5.0)
    assert STALLS_S[10] < 2.0 < STALLS_S[15]
    assert early[10] > later[10] == 0.0, "this stall is over before it begins"
    assert early[15] > later[15] > 0.0


def test_an_answer_of_one_token_cannot_be_slowed_down() -> None:
    lengths, streams = OutputLengths(), Streams()
    streams.add("one", limit_s=LIMIT_S, most_tokens=1, row=MODEL_ROW)
    assert not streams.curve({"one": 0.0}, 0.02, lengths, 5.0).any()
    streams.first_token("one", 5.0, in_time=True)
    assert not streams.curve({}, 0.02, lengths, 5.0).any()


@pytest.mark.parametrize("step_s", [0.02, 0.06])
def test_a_pending_prefill_has_to_lose_what_comes_after_its_first_token(step_s: float) -> None:
    lengths, streams = OutputLengths(), Streams()
    for _ in range(500):
        lengths.learn("short", 1.0)
    row = lengths.row("short")
    streams.add("soon", limit_s=LIMIT_S, most_tokens=500, row=row)
    goes_on = float(lengths.survival(np.array([row]), np.array([1.0]))[0])
    assert goes_on < 0.1
    assert streams.curve({"soon": 0.0}, step_s, lengths, 5.0)[-1] == pytest.approx(goes_on)


def test_positions_lie_between_the_points_of_the_grid() -> None:
    position = stall_position(STALLS_S, np.empty_like(STALLS_S))
    assert position[:-1] == pytest.approx(np.arange(len(STALLS_S) - 1), abs=1e-9)
    assert stall_position(np.array([1e9]), np.empty(1))[0] < len(STALLS_S) - 1


@given(st.lists(st.integers(1, 5000), max_size=60))
def test_survival_falls_from_one_and_follows_what_was_seen(tokens: list[int]) -> None:
    lengths = OutputLengths()
    for length in tokens:
        lengths.learn("key", length)
    for row in (MODEL_ROW, lengths.row("key")):
        assert (np.diff(lengths.table[row]) <= 1e-12).all()
        assert 0.0 <= lengths.table[row].min() <= lengths.table[row].max() <= 1.0
    assert 1.0 <= lengths.mean("key", 300) <= 300
    assert 1 <= lengths.quantile("key", 0.1, 300) <= 300


def test_a_key_is_trusted_slowly_and_in_the_end() -> None:
    lengths = OutputLengths()
    for _ in range(200):
        lengths.learn("long", 2000)
    for _ in range(3):
        lengths.learn("short", 10)
    before = lengths.mean("short", 10_000)
    assert before > 300, "three answers are not believed"
    for _ in range(300):
        lengths.learn("short", 10)
    assert lengths.mean("short", 10_000) < 0.3 * before
    assert lengths.quantile("long", 0.1, 100_000) >= 2000
