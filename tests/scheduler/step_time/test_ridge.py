"""The ridge of the step fit: what it holds, and what outweighs it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.step_time.ridge import mean_square, ridge_factors
from scheduler.step_time.step_model import FloatArray


def sums(rows: FloatArray, measured: FloatArray) -> tuple[FloatArray, FloatArray, float]:
    return rows.T @ rows, rows.T @ measured, float(measured @ measured)


def test_without_windows_the_factors_are_those_of_the_prior() -> None:
    assert ridge_factors(np.zeros((3, 3)), np.zeros(3), 0.01) == pytest.approx(np.ones(3))


def test_exact_windows_outweigh_it() -> None:
    rows = np.random.default_rng(1).uniform(0.1, 1.0, (20, 3))
    wanted = np.array([0.3, 2.0, 0.7])
    square, moment, _ = sums(rows, rows @ wanted)
    assert ridge_factors(square, moment, 1e-6) == pytest.approx(wanted, rel=1e-3)


def test_noisy_windows_keep_the_shape_of_the_prior() -> None:
    """Windows of one kind say how fast the whole is, and nothing of its parts."""
    square, moment, _ = sums(np.full((9, 3), 0.2), np.full(9, 1.2))
    assert ridge_factors(square, moment, 0.01) == pytest.approx(np.full(3, 2.0), rel=0.01)


def test_a_factor_is_never_negative() -> None:
    rows = np.array([[1.0, 0.1], [0.1, 1.0], [1.0, 1.0]])
    square, moment, _ = sums(rows, rows @ np.array([1.0, -0.5]))
    found = ridge_factors(square, moment, 1e-6)
    assert found[1] == 0.0
    assert found[0] > 0.0


@given(st.lists(st.floats(0.1, 3.0), min_size=4, max_size=4), st.floats(0.0, 0.5))
def test_the_mean_square_is_that_of_the_residuals(measured: list[float], factor: float) -> None:
    rows = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.9, 0.2]])
    times, factors = np.array(measured), np.array([factor, 1.0])
    square, moment, energy = sums(rows, times)
    found = mean_square(square, moment, energy, factors, granted=0.0, windows=4.0)
    common = float(rows.sum(axis=1) @ times) / float(square.sum())
    wanted = min(np.mean((rows @ x - times) ** 2) for x in (factors, np.full(2, common)))
    assert found == pytest.approx(wanted, abs=1e-9)
    more = mean_square(square, moment, energy, factors, granted=0.08, windows=4.0)
    assert more == pytest.approx(wanted + 0.02, abs=1e-9)
