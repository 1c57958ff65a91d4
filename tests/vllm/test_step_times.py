"""The step times of a real vLLM over concurrency, and the online fit of them.

Other work on the machine changes how fast the engine is from one second to the next, and how many
requests the client has in flight. So nothing here is compared with a clock or with what was sent:
the counters are compared with the single steps that the plugin tells of the same seconds, and the
fit with those and with what it says of itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import mean, median

import pytest

from tests.known import known
from tests.vllm.launch import VllmProcess, running_vllm
from tests.vllm.step_times import CONCURRENCIES, LAPS, WINDOWS, Seen, StepTimes, measure

MOST_MISS = 0.3


@pytest.fixture(scope="module")
def plugin_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmProcess]:
    with running_vllm(tmp_path_factory.mktemp("steps"), plugin=True) as server:
        yield server


async def test_the_fit_follows_a_real_engine(
    plugin_server: VllmProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    times = await measure(plugin_server)
    assert [point.concurrency for point in times.points] == list(CONCURRENCIES)
    assert len(times.windows) >= LAPS * len(CONCURRENCIES) * WINDOWS
    _check_counters(times.windows)
    missed, steady = _missed(times), _lap_difference(times.windows)
    misses, prior_misses, told = _misses(times.windows)
    with capsys.disabled():
        print(
            f"\nthe fit misses {missed:.0%}, the engine's laps differ by {steady:.0%}; windows are"
            f" missed by {misses:.0%}, by the prior {prior_misses:.0%}, and it says {told:.0%};"
            f" in the end {times.source} with {known(times.error):.0%}"
        )
    # As near as the engine is steady, or it says that it is poor.
    assert missed < MOST_MISS + steady or known(times.error) > MOST_MISS / 2
    # What it says of itself holds for windows that it had not seen.
    assert misses < 1.5 * told + 0.05
    # The stand-in prior has never seen this machine; the model in use is not to be worse.
    assert misses < 1.25 * prior_misses + 0.02


def _check_counters(windows: Sequence[Seen]) -> None:
    """A window's counters tell the time of its steps, and how many sequences shared them. The
    batch may be too large by what a late page adds to the seconds, never too small."""
    assert all(seen.step_ms == pytest.approx(seen.told_step_ms, rel=0.05) for seen in windows)
    batches = [seen.batch / seen.told_batch for seen in windows]
    assert min(batches) > 0.95
    assert median(batches) < 1.05


def _missed(times: StepTimes) -> float:
    """Median over the concurrencies of what the fit misses the engine's usual step time by."""
    return median(
        abs(point.fitted_tpot_ms / _usual_ms(times.windows, point.concurrency) - 1.0)
        for point in times.points
    )


def _usual_ms(windows: Sequence[Seen], concurrency: int) -> float:
    return median(seen.told_step_ms for seen in windows if seen.concurrency == concurrency)


def _lap_difference(windows: Sequence[Seen]) -> float:
    """Median over the concurrencies of what the way up and the way down differ by."""
    turn = next(n for n, seen in enumerate(windows) if seen.concurrency == CONCURRENCIES[-1])
    there = [n for n, seen in enumerate(windows) if seen.concurrency == CONCURRENCIES[-1]]
    middle = turn + len(there) // 2
    laps = windows[:middle], windows[middle:]
    return median(
        abs(_usual_ms(laps[0], concurrency) / _usual_ms(laps[1], concurrency) - 1.0)
        for concurrency in CONCURRENCIES
    )


def _misses(windows: Sequence[Seen]) -> tuple[float, float, float]:
    """Of the second lap's windows: the mean miss of the model in use before it saw them, that of
    the prior, and the mean of what the fit said. A miss counts at most as a whole."""
    later = windows[len(windows) // 2 :]
    return (
        mean(min(1.0, abs(seen.step_ms / seen.expected_ms - 1.0)) for seen in later),
        mean(min(1.0, abs(seen.step_ms / seen.prior_ms - 1.0)) for seen in later),
        mean(known(seen.error) for seen in later),
    )
