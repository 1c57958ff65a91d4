"""How busy the loop is, and how large pieces become."""

from __future__ import annotations

import pytest

from gateway.loop_load import LONGEST_WINDOW_S, MOST_TOKENS_PER_CHUNK, LoopLoad


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
    return LoopLoad(lambda: clocks.wall_s, lambda: clocks.cpu_s), clocks


@pytest.mark.parametrize(
    ("share", "window_s", "tokens"),
    [
        (0.0, 0.0, 1),
        (0.3, 0.0, 1),
        (0.5, LONGEST_WINDOW_S / 2, 4),
        (0.7, LONGEST_WINDOW_S, MOST_TOKENS_PER_CHUNK),
        (1.0, LONGEST_WINDOW_S, MOST_TOKENS_PER_CHUNK),
    ],
)
def test_the_window_grows_with_the_share(share: float, window_s: float, tokens: int) -> None:
    load, clocks = made()
    clocks.pass_time(load, share)
    assert load.window_s == pytest.approx(window_s, abs=1e-4)
    assert load.tokens_per_chunk == pytest.approx(tokens, abs=1)


def test_it_goes_back_when_the_loop_has_time_again() -> None:
    load, clocks = made()
    clocks.pass_time(load, 1.0)
    assert load.window_s == LONGEST_WINDOW_S
    clocks.pass_time(load, 0.1)
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
