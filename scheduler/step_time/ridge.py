"""Least squares of the factors of a step model, held to a common factor and weakly to 1.

Sums over windows: S = sum w r r', m = sum w y r, e = sum w y y, with a window's terms r and its
measured time y, both relative. The factors x minimise

    sum w (r x - y)^2 + noise / SPREAD^2 sum_i (x_i - s)^2 + noise / PRIOR_SPREAD^2 (s - 1)^2

over x and the common factor s: the estimate of largest posterior probability where the factors
scatter about s by SPREAD, and windows about the model by the root of `noise`.
"""

from __future__ import annotations

import numpy as np

from scheduler.step_time.step_model import FloatArray

SPREAD = 0.7
PRIOR_SPREAD = 2.2


def ridge_factors(square: FloatArray, moment: FloatArray, noise: float) -> FloatArray:
    """The factors, of shape (terms,). Those below 0 become 0, and the others are solved again."""
    terms = len(moment)
    common, prior = noise / SPREAD**2, noise / PRIOR_SPREAD**2
    # The unknowns are the factors and the common factor.
    matrix = np.zeros((terms + 1, terms + 1))
    matrix[:terms, :terms] = square + common * np.eye(terms)
    matrix[:terms, terms] = matrix[terms, :terms] = -common
    matrix[terms, terms] = terms * common + prior
    vector = np.append(moment, prior)
    free = np.ones(terms + 1, dtype=bool)
    solution = np.zeros(terms + 1)
    for _ in range(terms):
        solution[:] = 0.0
        solution[free] = np.linalg.solve(matrix[np.ix_(free, free)], vector[free])
        if not (negative := solution[:terms] < 0.0).any():
            break
        free[:terms] &= ~negative
    return np.maximum(solution[:terms], 0.0)


def mean_square(
    square: FloatArray,
    moment: FloatArray,
    energy: float,
    factors: FloatArray,
    *,
    granted: float,
    windows: float,
) -> float:
    """Mean square of the relative residuals of `windows`, by the factors or by the prior at its
    best common factor, whichever is less. `granted`: squares that are added to theirs."""
    whole = float(square.sum())
    best = np.full(len(moment), float(moment.sum()) / whole if whole > 0.0 else 1.0)
    left = min(energy - 2.0 * float(moment @ x) + float(x @ square @ x) for x in (factors, best))
    return (max(0.0, left) + granted) / windows
