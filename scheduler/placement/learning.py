"""What a fleet learns of its engines' step times, and when decisions begin to use it.

Reports and single steps feed the fit of their group, as do the times from dispatch to first token
of own prompts, once it is known what was cached of these. A changed fit is applied at the next
report, so that a token costs no new model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scheduler.contract import AttemptEnded
from scheduler.placement.decision_model import full_token_s, priced
from scheduler.placement.groups import Group, chunk_s
from scheduler.resident import Resident
from scheduler.step_time.own_load import NONE_UNDERWAY, PromptsUnderway
from scheduler.step_time.step_fit import StepSource
from scheduler.step_time.step_windows import joined

if TYPE_CHECKING:
    from scheduler.placement.self_hosted import SelfHostedFleet
    from scheduler.placement_state import PlacementState

SAME_TIME_S = 0.5
"""Reports of a group's ranks within this time are joined to one."""
MOST_UNDERWAY = 0.95
"""Share of a prompt that is taken for computed at most while its first token is awaited."""


def observe_reports(fleet: SelfHostedFleet, group: Group, now: float) -> None:
    """Feeds the group's reports to its fit once all its ranks have reported."""
    states = [fleet.states[member] for member in group.members]
    whole = [state.report for state in states if state.report is not None]
    if (
        len(whole) < len(states)
        or max(r.at_s for r in whole) - min(r.at_s for r in whole) > SAME_TIME_S
    ):
        return
    report = joined(whole)
    underway = sum((_underway(state, report.at_s) for state in states), NONE_UNDERWAY)
    sequences = sum(state.sequences for state in states)
    pool = fleet.pooled[group.fit.prior].stalls
    if group.observe(report, sequences=sequences, underway=underway, pool=pool, now=now):
        apply_fit(fleet, group)
    fleet.stretch[group.members] = group.stretch


def apply_fit(fleet: SelfHostedFleet, group: Group) -> None:
    """Makes decisions use the group's fit, as far as identical groups bear it out."""
    own = group.fit.model
    used = group.fit.source is StepSource.FIT
    pooled = fleet.pooled[group.fit.prior]
    pooled.update(group.name, own if used else None)
    model = pooled.model(group.name, own, group.batch, group.kv_paced_tokens)
    before_s = full_token_s(group.model)
    group.set_model(priced(model, fleet.policy))
    added_s = (full_token_s(group.model) - before_s) * len(group.members)
    fleet.full_token_s += added_s / len(fleet)
    for member in group.members:
        fleet.models.set(member, group.model)
        fleet.transfer_s[:, member] = group.model.transfer.row
        fleet.chunk_s[member] = chunk_s(fleet.states[member].facts, group.model)


def prompt_sent(fleet: SelfHostedFleet, index: int, prefill_s: float, now: float) -> None:
    """Records that a prompt is about to be sent to a placement. `prefill_s`: as predicted."""
    state, group = fleet.states[index], fleet.groups[index]
    fleet.pooled[group.fit.prior].stalls.prompt_sent(prefill_s)
    periods = group.prefills(state.facts.name)
    periods.sent(now, pending=len(state.pending), sequences=group.batch)
    if not _is_told(fleet, index, now):
        periods.spoil()


def first_token(fleet: SelfHostedFleet, index: int, resident: Resident, now: float) -> None:
    """Feeds the time to the first token of a prompt to the fit, once no other is pending."""
    state, group, request = fleet.states[index], fleet.groups[index], resident.request
    group.step_ended_s = now
    if resident.predicted_ttft_s is not None:
        fleet.errors.observe(resident.predicted_ttft_s, now - resident.started_s)
    if resident.typical_ttft is not None:
        fleet.errors.observe_typical(resident.typical_ttft, now - resident.started_s)
    periods = group.prefills(state.facts.name)
    if not _is_told(fleet, index, now) or request.inputs > 1:
        periods.spoil()
    periods.first_token(
        now,
        request_id=request.request_id,
        prompt_tokens=request.prompt_tokens,
        hit_tokens=resident.hit_tokens,
        pending=len(state.pending),
        sequences=group.batch,
        kv_tokens=group.kv_paced_tokens,
        chunk_tokens=group.model.chunk_tokens,
    )


def attempt_removed(fleet: SelfHostedFleet, index: int, request_id: str, now: float) -> None:
    """Records that an attempt ends; one without a first token leaves its period unclear."""
    state, group = fleet.states[index], fleet.groups[index]
    if request_id in state.pending:
        group.prefills(state.facts.name).spoil()
    else:
        group.step_ended_s = now


def answer_ended(
    fleet: SelfHostedFleet, index: int, request_id: str, ended: AttemptEnded | None
) -> None:
    """Feeds what the engine had in its cache of a prompt, which only the end of its answer tells,
    to the fit. `ended`: None: it was cancelled."""
    group = fleet.groups[index]
    told = (None, None) if ended is None else (ended.prompt_tokens, ended.cached_tokens)
    period = group.prefills(fleet.facts[index].name).ended(request_id, *told)
    if period is not None:
        group.fit.observe_period(period)


def _is_told(fleet: SelfHostedFleet, index: int, now: float) -> bool:
    """Whether times to first tokens tell of the prompts: nobody else computes prompts there, no
    queue of the engine comes before, and ranks that step together have no prompts of their own."""
    state, group = fleet.states[index], fleet.groups[index]
    if state.facts.prefill_price_share is not None or state.external(now):
        return False
    return not any(fleet.states[m].pending for m in group.members if m != index)


def _underway(state: PlacementState, at_s: float) -> PromptsUnderway:
    """What is computed by then of the prompt that is at its turn."""
    if not state.pending:
        return NONE_UNDERWAY
    request_id, prefill_s = next(iter(state.pending.items()))
    resident = state.residents[request_id]
    passed_s = max(0.0, at_s - state.prefill_began_s)
    share = min(MOST_UNDERWAY, passed_s / prefill_s) if prefill_s > 0.0 else 0.0
    prompt = resident.request.prompt_tokens
    return PromptsUnderway(share, share * prompt, share * (prompt - resident.hit_tokens))
