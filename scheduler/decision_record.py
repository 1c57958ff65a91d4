"""A decision as plain data, which can leave the scheduler's process."""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.decisions import Candidate, Decision, Figures, Tier


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRecord:
    """A copy of a `Decision`, without the arrays and facts that it was made of.

    `placements`: number of placements that were considered. `listed`: all of them, best first;
    empty if they were not asked for. `chosen_figures`, `other_figures`: see `Decision.best_two`.
    """

    request_id: str
    model: str
    attempt: int
    tier: Tier
    chosen: str | None
    reason: str
    prompt_tokens: int
    output_tokens: float
    placements: int
    listed: tuple[Candidate, ...]
    chosen_figures: Figures | None
    other_figures: Figures | None

    def candidates(self) -> tuple[Candidate, ...]:
        """See `Decision`."""
        return self.listed

    def best_two(self) -> tuple[Figures | None, Figures | None]:
        """See `Decision`."""
        return self.chosen_figures, self.other_figures


def decision_record(decision: Decision, *, lists: bool) -> DecisionRecord:
    """Copies a decision. `lists`: with every placement, which takes a pass over all of them."""
    chosen, other = decision.best_two()
    return DecisionRecord(
        request_id=decision.request_id,
        model=decision.model,
        attempt=decision.attempt,
        tier=decision.tier,
        chosen=decision.chosen,
        reason=decision.reason,
        prompt_tokens=decision.prompt_tokens,
        output_tokens=float(decision.output_tokens),
        placements=decision.placements,
        listed=decision.candidates() if lists else (),
        chosen_figures=chosen,
        other_figures=other,
    )
