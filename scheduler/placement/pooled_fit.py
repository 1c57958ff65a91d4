"""The pooled fit of identical groups: the same model on the same hardware has one prior.

Each fit carries a random error. Comparing noisy per-group fits always picks the luckiest one, which
gathers load there and opens idle groups for nothing, so identical groups share their mean fit. A
group that really differs, with a throttled GPU for example, uses its own fit: its share grows from
a difference of `ALIKE` on, and from `UNLIKE` on only its own fit counts.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

import numpy as np

from scheduler.output_length import Floats
from scheduler.placement.prefill_stalls import PrefillStalls
from scheduler.step_time.step_model import StepModel

ALIKE = 0.2
UNLIKE = 0.4
"""Relative differences of a group's step time from the mean."""
_FIELDS = (
    "base_s",
    "expert_s",
    "sequence_s",
    "kv_token_s",
    "prefill_s",
    "prefill_token_s",
    "prefill_context_s",
    "draft_tokens",
    "tokens_per_step",
)


class PooledFit:
    """The fits of all groups of one prior, by the name of the group."""

    def __init__(self) -> None:
        self._sum: Floats = np.zeros(len(_FIELDS))
        self._fits: dict[Hashable, Floats] = {}
        self.stalls = PrefillStalls()
        """What the groups have seen of prefills between their outputs."""

    def __len__(self) -> int:
        """Number of groups whose fit is in the mean."""
        return len(self._fits)

    def update(self, group: Hashable, fit: StepModel | None) -> None:
        """Replaces the fit of a group; None: the group leaves the mean."""
        before = self._fits.pop(group, None)
        if before is not None:
            self._sum -= before
        if fit is not None:
            self._fits[group] = np.array([getattr(fit, name) for name in _FIELDS])
            self._sum += self._fits[group]

    def model(self, group: Hashable, own: StepModel, batch: int, kv_tokens: int) -> StepModel:
        """What to compare the group by while it runs `batch` sequences; `own`: its own model."""
        if len(self._fits) < 2:
            return own
        figures = self._sum / len(self._fits)
        mean = _with(own, figures)
        fit = self._fits.get(group)
        if fit is None:
            return mean
        at = batch or own.touch_all_batch()
        apart = abs(own.tpot_s(at, kv_tokens) / mean.tpot_s(at, kv_tokens) - 1.0)
        own_share = min(1.0, max(0.0, (apart - ALIKE) / (UNLIKE - ALIKE)))
        if own_share == 0.0:
            return mean
        return _with(own, (1.0 - own_share) * figures + own_share * fit)


def _with(model: StepModel, figures: Floats) -> StepModel:
    return replace(model, **dict(zip(_FIELDS, figures.tolist(), strict=True)))
