"""The online fit of a group's step time, from windows (`step_windows.py`) and a prior.

A window measures y, the mean time between two outputs of a sequence. The model of y is

    y = x0 t0 + x1 a eta D + x2 c B + x3 kappa K + P/steps

with the terms of the prior. D is the mean over the steps of the distinct experts that decoding and
prompt tokens touch together. P, the time of the window's prompt tokens, is that of a fit of its own
(`prefill_fit.py`), which learns from other events; the larger its part of a window, the less the
window says of the other terms.

The factors x are fitted; they are 1 in the prior. The terms grow together,
so a window gives little information on each factor. Ridges therefore hold the factors to a common
factor s (a server that is twice as slow is so in all parts), and hold s weakly to 1, as strongly as
the windows scatter: precise ones soon outweigh them. Residuals are relative to the prediction.
Relative to the measured time a slow window would count less than a fast one, and the fit would be
too fast by twice the variance of the windows. Older windows fade, and factors are not below 0.
Only T(B) over the batches that occurred is judged, never single factors.

    fit = StepFit(prior)                      one per group
    window = meter.take(report, own)          at each report of its engine
    if window is not None: fit.observe(window)
    fit.observe_steps(windows_of(...))        where the engine tells its single steps, instead
    fit.observe_period(period, ...)           when prompts have their first tokens
    fit.model                                 for every prediction; changes with `fit.version`

The fit predicts each window before it learns from it; the mean miss is its error. The fit is used
once it has seen enough windows and while its error is not above the prior's. A fit with a large
error is used only while the prior's error is at least twice as large.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from scheduler.step_time.prefill_fit import PrefillFit
from scheduler.step_time.prefill_periods import PrefillPeriod
from scheduler.step_time.prefill_samples import sample_of_period, sample_of_steps
from scheduler.step_time.ridge import mean_square, ridge_factors
from scheduler.step_time.step_model import ExpertLaw, FloatArray, StepModel
from scheduler.step_time.step_terms import decode_terms, prompt_terms
from scheduler.step_time.step_windows import Window, WindowSource
from scheduler.step_time.transfer_fit import TransferFit, TransferWindow

TERMS = 4
FADE_S = 180.0
"""Time in which the weight of a window falls to 1/e."""
FEWEST_WINDOWS = 5
"""Number of windows from which the fit may be used."""
FULL_GAPS = 200.0
"""Number of gaps above which a window gets no more weight."""
FULL_STEPS = 20.0
"""The same for windows of single steps, in steps."""
SOLVED_TOGETHER = 8
"""Windows of single steps after which the factors are solved again, once the fit has seen
SOLVED_EACH windows."""
SOLVED_EACH = 64
POOR_ERROR = 0.3
"""Mean relative miss above which the prior is used, unless the prior's is twice as large."""
MOST_MISS = 1.0
"""Largest relative miss that is counted: one stall of a second must not dominate minutes."""
ERROR_WEIGHT = 0.1
"""Weight of a window in the running means of the misses."""
NOISE = 0.1
"""Relative scatter that is taken for granted of counters, which mix steps of many batches; of
single steps it is only the first guess."""
MOST_OFF = 1.5
"""A window's residual is relative to the prediction as far as the two differ by no larger
factor: a fit that does not know a batch yet may be far off."""
JUMP = 0.12
"""Mean signed miss of recent windows above which the engine has changed; below it is noise."""
LARGEST_JUMP = 0.25
"""Upper bound of this threshold, for engines of any noise."""
JUMP_WEIGHT = 0.3
"""Weight of a window in the mean of recent ones."""
MOST_DRIFT = 3.0
"""Windows of one event that count as recent, so that a busy second alone is no change."""
OUTLIER = 0.3
"""A settled fit learns from a window as if it missed it by no more."""
LEAST_SHARE = 0.25
"""Share of a window's time that is no prefill, from which on it tells of the other terms."""
MOST_COMMON = 4.0
"""Bound of the factor that prefills take from the decode terms."""
JUMP_KEEPS = 0.05
"""Weight that the windows before a change keep."""
OWN_WEIGHT = 0.5
"""Weight of a window that the gateway counted: its counts are later and coarser."""
SPECULATION_WEIGHT = 0.2
LAW_CHANGE = 0.05
"""Relative change of the distinct experts at which older windows keep 1/e of their weight."""
LAW_WEIGHT = 0.05
"""Weight of a window in the mean tokens of a step."""


class StepSource(enum.StrEnum):
    """Source of a group's step model."""

    PRIOR = "prior"
    FIT = "fit"


@dataclass(frozen=True, slots=True, kw_only=True)
class FitState:
    """State of a fit, for operators.

    Attributes:
        source: source of the step model that `model` returns.
        reason: reason for this source.
        error: mean relative miss of the fit on windows that it had not seen; None before any.
        prior_error: the same for the prior, on the same windows.
        windows: number of fitted windows.
        excluded: number of windows left out because of a disturbance.
        disturbance: the last such disturbance.
        factors: x0 to x3, for t0, a eta, c and kappa, then those of p1 and p2.
        prefill_s: p0.
    """

    source: StepSource
    reason: str
    error: float | None
    prior_error: float | None
    windows: int
    excluded: int
    disturbance: str
    factors: tuple[float, ...]
    prefill_s: float


class StepFit:
    """Fits the step model of one group."""

    def __init__(self, prior: StepModel) -> None:
        self.prior = prior
        self._terms_of = prior
        """The prior with the observed law of distinct experts."""
        self._seen_tokens = 0.0
        """Mean tokens of the steps of recent windows."""
        self.version = 0
        """Grows whenever `model` changes."""
        self._square = np.zeros((TERMS, TERMS))
        self._moment = np.zeros(TERMS)
        self._energy = 0.0
        """Sum of the squared measured times, relative as the terms are."""
        self._weight = self._counters = 0.0
        """Faded number of windows, and of those from counters among them."""
        self._factors: FloatArray = np.ones(TERMS)
        self._prefill = PrefillFit(prior)
        self._transfers = TransferFit()
        self._error: float | None = None
        self._prior_error: float | None = None
        self._drift = 0.0
        self._windows = 0
        self._since_jump = 0
        self._full_windows = 0.0
        self._excluded = 0
        self._disturbance = ""
        self._seen_s: float | None = None
        self._tokens_per_step = prior.tokens_per_step
        self._draft_tokens = prior.draft_tokens
        self._model = prior
        self._is_outdated = False
        """Whether prompts were learnt from since `_model` was made."""

    def observe(self, window: Window) -> None:
        """Learns from a window; a disturbed one is only counted."""
        if window.disturbance:
            self._excluded += 1
            self._disturbance = window.disturbance
            return
        self._follow(self._learn(window, self._weight_of(window)), 1.0)
        self._solve()

    def use_law(self, law: ExpertLaw) -> None:
        """Takes an observed law of distinct experts in place of eta D. The windows so far keep
        their measured times, with the term of the experts as the law has it at their mean batch."""
        before = self._terms_of
        self._terms_of = replace(before, law=law)
        if self._windows and (was := before.touched_experts(self._seen_tokens)):
            factor = self._terms_of.touched_experts(self._seen_tokens) / was
            # Right at that batch only: the more the law has changed, the less they count.
            keep = math.exp(-abs(factor - 1.0) / LAW_CHANGE)
            self._keep(keep)
            self._square[1] *= factor
            self._square[:, 1] *= factor
            self._moment[1] *= factor
        self._solve()

    def observe_steps(self, windows: Sequence[Window]) -> None:
        """Learns from the windows of single steps."""
        misses = weights = 0.0
        for count, window in enumerate(windows, start=1):
            weight = self._weight_of(window)
            misses += weight * self._learn(window, weight)
            weights += weight
            if self._windows < SOLVED_EACH or count % SOLVED_TOGETHER == 0:
                self._solve()
        if weights:
            # The windows of an event differ by batch: only together they tell that the engine has
            # changed. Else a few of one batch would make the fit forget the others.
            self._follow(misses / weights, min(weights, MOST_DRIFT))
        self._solve()

    def observe_period(self, period: PrefillPeriod) -> None:
        """Learns from the time from dispatch to first tokens of own prompts."""
        # The decode terms of the model before hold: this learns those of prompts alone.
        sample = sample_of_period(period, self._terms_of, self._model)
        self._prefill.observe(sample)
        self._is_outdated = True
        self.version += 1

    def observe_transfers(self, window: TransferWindow) -> None:
        """Learns from KV caches that travelled between engines."""
        self._transfers.observe(window)
        self._is_outdated = True
        self.version += 1

    def _learn(self, window: Window, weight: float) -> float:
        """Learns from a window; returns by how much it was missed, OUTLIER at most to each side."""
        self._speculation(window)
        terms = decode_terms(self._terms_of, window, self._draft_tokens)
        prompts = prompt_terms(self._terms_of, window)
        if window.single_steps and window.prompts:  # those without tell of the other terms
            decode_s = float(terms @ self._factors)
            self._prefill.observe(sample_of_steps(window, prompts, decode_s))
            return 0.0
        prefill_s = self._prefill.seconds(*prompts) / window.steps
        decode_share = 1.0 - prefill_s / window.step_s
        if decode_share < LEAST_SHARE:
            return 0.0
        weight *= decode_share**2
        predicted_s = float(terms @ self._factors) + prefill_s
        miss = window.step_s / predicted_s - 1.0 if predicted_s > 0 else 1.0
        error_weight = self._error_weight(weight) if window.single_steps else ERROR_WEIGHT
        self._error = _mean(self._error, miss if self._windows else None, error_weight)
        prior_s = float(terms.sum()) + prompts.prior_s(self.prior) / window.steps
        prior_miss = window.step_s / prior_s - 1.0
        self._prior_error = _mean(self._prior_error, prior_miss, error_weight)
        self._fade(window)
        step_s = scale_s = window.step_s
        if self.source is StepSource.FIT and not self._changes:
            step_s = min(max(step_s, predicted_s * (1.0 - OUTLIER)), predicted_s * (1.0 + OUTLIER))
        if self._windows:
            scale_s = min(max(predicted_s, step_s / MOST_OFF), step_s * MOST_OFF)
        relative, measured = terms / scale_s, max(0.0, step_s - prefill_s) / scale_s
        if window.batch > 0:
            tokens = window.batch * (self._draft_tokens + 1.0)
            share = LAW_WEIGHT if self._seen_tokens else 1.0
            self._seen_tokens += share * (tokens - self._seen_tokens)
        self._square += weight * np.outer(relative, relative)
        self._moment += weight * measured * relative
        self._energy += weight * measured**2
        self._weight += 1.0
        self._counters += not window.single_steps
        self._windows += 1
        self._since_jump += 1
        return min(OUTLIER, max(-OUTLIER, miss))

    @property
    def model(self) -> StepModel:
        """The step model to predict with. It does not age: it stays until windows contradict it."""
        if self._is_outdated:
            self._model, self._is_outdated = self._chosen(), False
        return self._model

    @property
    def error(self) -> float | None:
        """Mean relative miss of the step model in use; None before any window."""
        return self._error if self.source is StepSource.FIT else self._prior_error

    @property
    def source(self) -> StepSource:
        """Source of the step model that `model` returns."""
        return self._judged()[0]

    @property
    def state(self) -> FitState:
        """The state of the fit, for operators."""
        source, reason = self._judged()
        return FitState(
            source=source,
            reason=reason,
            error=self._error,
            prior_error=self._prior_error,
            windows=self._windows,
            excluded=self._excluded,
            disturbance=self._disturbance,
            factors=(*map(float, self._factors), self._prefill.tokens, self._prefill.context),
            prefill_s=self._prefill.constant_s,
        )

    def _judged(self) -> tuple[StepSource, str]:
        error, prior_error = self._error, self._prior_error
        if self._windows < FEWEST_WINDOWS or error is None or prior_error is None:
            return StepSource.PRIOR, f"{self._windows} of {FEWEST_WINDOWS} windows seen"
        told = f"misses by {error:.0%}, the prior by {prior_error:.0%}"
        if error > prior_error:
            return StepSource.PRIOR, f"the fit {told}"
        if error > POOR_ERROR and error > prior_error / 2.0:
            return StepSource.PRIOR, f"the fit {told}, and more than {POOR_ERROR:.0%} is poor"
        return StepSource.FIT, told

    def _error_weight(self, full: float) -> float:
        """Weight of a window of single steps in the running means of the misses: at first that of a
        plain mean, since the factors come into place within a few windows. `full`: its share of a
        full window."""
        if not self._full_windows:
            self._full_windows = min(float(self._windows), 1.0 / ERROR_WEIGHT)
        self._full_windows += full
        return max(ERROR_WEIGHT, 1.0 / self._full_windows) * full

    @property
    def _changes(self) -> bool:
        """Whether the engine seems to change, or has just done so."""
        return abs(self._drift) > JUMP / 2.0 or self._since_jump < FEWEST_WINDOWS

    def _fade(self, window: Window) -> None:
        if self._seen_s is not None:
            keep = math.exp(-max(0.0, window.end_s - self._seen_s) / FADE_S)
            self._keep(keep)
        self._seen_s = window.end_s

    def _keep(self, share: float) -> None:
        """Lets the windows so far weigh only this share."""
        self._square *= share
        self._moment *= share
        self._energy *= share
        self._weight *= share
        self._counters *= share

    def _weight_of(self, window: Window) -> float:
        """Weight of a window, 0 to 1."""
        if not window.single_steps:
            full = min(1.0, window.gaps / FULL_GAPS)
            return full * OWN_WEIGHT if window.source is WindowSource.GATEWAY else full
        return 0.0 if window.prompts else min(1.0, window.single_steps / FULL_STEPS)

    def _follow(self, miss: float, windows: float) -> None:
        """Forgets older windows when all recent ones miss to one side: the engine has changed.
        `miss`: mean of the newest ones; `windows`: how many they are."""
        self._drift += (1.0 - (1.0 - JUMP_WEIGHT) ** windows) * (miss - self._drift)
        # Noise of this size moves the mean by half of its size, so a larger mean is a change.
        enough = min(max(JUMP, self._error or 0.0), LARGEST_JUMP)
        if abs(self._drift) > enough and self._since_jump >= FEWEST_WINDOWS:
            # Windows of other batches keep their shape, are scaled to the new pace, and weigh less.
            pace = 1.0 + self._drift
            self._keep(JUMP_KEEPS)
            self._square /= pace**2
            self._moment /= pace
            self._drift = 0.0
            self._since_jump = 0

    def _speculation(self, window: Window) -> None:
        first = self._windows == 0
        weight = 1.0 if first else SPECULATION_WEIGHT
        if window.tokens_per_step is not None:
            self._tokens_per_step += weight * (window.tokens_per_step - self._tokens_per_step)
        if window.draft_tokens is not None:
            self._draft_tokens += weight * (window.draft_tokens - self._draft_tokens)

    def _solve(self) -> None:
        noise = mean_square(
            self._square, self._moment, self._energy, self._factors,
            granted=NOISE**2 * (1.0 + self._counters), windows=1.0 + self._weight,
        )  # fmt: skip
        self._factors = ridge_factors(self._square, self._moment, noise)
        common = min(MOST_COMMON, max(1.0 / MOST_COMMON, float(self._factors.mean())))
        self._prefill.follow(common if self.source is StepSource.FIT else 1.0)
        self._model, self._is_outdated = self._chosen(), False
        self.version += 1

    def _chosen(self) -> StepModel:
        terms, prefill = self._terms_of, self._prefill
        prior = replace(
            terms,
            tokens_per_step=max(1.0, self._tokens_per_step),
            draft_tokens=self._draft_tokens,
            prefill_s=prefill.constant_s,
            prefill_token_s=terms.prefill_token_s * prefill.tokens,
            prefill_context_s=terms.prefill_context_s * prefill.context,
            transfer=self._transfers.time,
        )
        if self.source is StepSource.PRIOR:
            return prior
        base, experts, sequences, kv = (float(factor) for factor in self._factors)
        return prior.scaled(base=base, experts=experts, sequences=sequences, kv=kv)


def _mean(mean: float | None, miss: float | None, weight: float) -> float | None:
    """Running mean of the size of misses, which starts with the first."""
    if miss is None:
        return mean
    value = min(MOST_MISS, abs(miss))
    return value if mean is None else mean + weight * (value - mean)
