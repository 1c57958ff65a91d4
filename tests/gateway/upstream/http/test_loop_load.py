"""How busy the loop is, and how large pieces become."""

from __future__ import annotations

import pytest

from gateway.upstream.http.loop_load import (
    MOST_TOKENS_PER_CHUNK,
    TARGET_SHARE,
    LoopLoad,
)

LONGEST_WINDOW_S = 0.05


class Clocks:
    """Wall time and CPU time that a test moves."""

    def __init__(self) -> None:
        self.wall_s = self.cpu_s = 0.0

    def pass_time(self, load: LoopLoad, share: float, steps: int = 40) -> None:
        for _ in range(steps):
            self.wall_s += 0.1
            self.cpu_s += 0.1 * share
            load.sample()


def made() -> tuple[LoopLoad, Clocks]:
    clocks = Clocks()
    return LoopLoad(lambda: clocks.wall_s, lambda: clocks.cpu_s, LONGEST_WINDOW_S), clocks


@pytest.mark.parametrize(
    ("share", "window_s", "tokens"),
    [
        (0.0, 0.0, 1),
        (TARGET_SHARE, 0.0, 1),
        (0.5, LONGEST_WINDOW_S, MOST_TOKENS_PER_CHUNK),
        (1.0, LONGEST_WINDOW_S, MOST_TOKENS_PER_CHUNK),
    ],
)
def test_the_window_grows_while_the_share_is_above_the_target(
    share: float, window_s: float, tokens: int
) -> None:
    load, clocks = made()
    clocks.pass_time(load, share)
    assert load.window_s == pytest.approx(window_s)
    assert load.tokens_per_chunk == tokens


def test_it_settles_where_the_share_meets_the_target() -> None:
    load, clocks = made()
    # Work that halves with each 20 ms of window, as messages do that hold twice the tokens.
    for _ in range(400):
        clocks.pass_time(load, 0.4 / (1 + load.window_s / 0.02), steps=1)
    assert load.share == pytest.approx(TARGET_SHARE, abs=0.02)
    assert 0.0 < load.window_s < LONGEST_WINDOW_S


def test_it_goes_back_when_the_gateway_has_time_again() -> None:
    load, clocks = made()
    clocks.pass_time(load, 1.0)
    assert load.window_s == LONGEST_WINDOW_S
    clocks.pass_time(load, 0.0)
    assert (load.window_s, load.tokens_per_chunk) == (0.0, 1)


def test_holding_can_be_switched_off() -> None:
    clocks = Clocks()
    load = LoopLoad(lambda: clocks.wall_s, lambda: clocks.cpu_s, 0.0)
    clocks.pass_time(load, 1.0)
    assert (load.window_s, load.tokens_per_chunk) == (0.0, 1)


def test_samples_that_come_too_soon_change_nothing() -> None:
    load, clocks = made()
    for _ in range(9):
        clocks.wall_s += 0.01
        clocks.cpu_s += 0.01
        load.sample()
    assert load.share == 0.0
    clocks.wall_s += 0.02
    clocks.cpu_s += 0.02
    load.sample()
    assert load.share > 0.0


def test_a_clock_that_jumps_gives_no_absurd_share() -> None:
    load, clocks = made()
    clocks.wall_s += 1.0
    clocks.cpu_s += 5.0
    load.sample()
    assert load.share <= 1.0
    clocks.wall_s += 1.0
    clocks.cpu_s -= 5.0
    load.sample()
    assert load.share >= 0.0
