"""Answers `Quote`: the decision that would be made for a request, without changing any state."""

from __future__ import annotations

from scheduler.contract import Request
from scheduler.decisions import Decision, Tier
from scheduler.model import transitions
from scheduler.model.awaited_server import AWAITS_SERVER, awaited_server_s
from scheduler.model.lost_prefix import waits_for_home
from scheduler.model.model_state import ModelState
from scheduler.model.refusals import why_none_is_open
from scheduler.model.typical_times import typical_times
from scheduler.tracked_request import TrackedRequest


def quote_request(model_state: ModelState, request: Request, now: float) -> Decision:
    """Returns the decision that would be made for `request` now. Starts nothing."""
    tracked = TrackedRequest(request)
    model_state.set_expectations(tracked, count=False)
    query = model_state.query(tracked, now)
    index, quote, *_ = model_state.preview_place(query, now)
    queue = model_state.queue
    has_room = queue.has_room(request) or queue.displaceable(request) is not None
    remote, remote_reason, quotes = transitions.choose_remote(
        model_state, tracked, now, any_ttft=not query.possible or not has_room
    )
    wait_s = model_state.wait_s(request, quote.best_s()[0])
    first_s = now + wait_s + quote.best_s()[1]
    late = not query.possible or (
        first_s > model_state.latest_wait_s(tracked)
        and not waits_for_home(model_state, tracked, now)
    )
    chosen, tier, reason = None, Tier.WAIT, f"waits, {wait_s:.1f} s predicted"
    awaits_server = awaited_server_s(model_state.fleet.states, request) is not None
    if awaits_server:
        reason = AWAITS_SERVER
    if index is not None:
        figures = typical_times(model_state.fleet, query, quote, index, now)
        quote.set_times(index, figures.ttft_s, figures.tpot_s)
        chosen, tier = model_state.fleet.states[index].facts.name, Tier.LOCAL
        reason = transitions.start_reason(quote, index)
    elif remote is not None and (late or not has_room):
        chosen, tier, reason = remote.placement, Tier.REMOTE, remote_reason
    elif query.possible or model_state.remotes.open(tracked, now) or awaits_server:
        if not has_room:
            tier, reason = Tier.REFUSE, "no place can take it, and the queue is full"
        elif late:
            tier = Tier.WAIT_LATE
    else:
        _, reason, _ = why_none_is_open(model_state.states, model_state.admission, request, now)
        tier = Tier.REFUSE
    return transitions.make_decision(model_state, tracked, now, tier, reason, quote, chosen, quotes)
