"""What it costs at home if a session runs elsewhere.

The prefix of a session is in the cache of the placement that served it last, its home. If a turn
runs on a remote, the home does not see it: others push the prefix out of its cache, and the next
turn computes the whole context anew.
"""

from __future__ import annotations

import math

from scheduler.model.model_state import ModelState
from scheduler.tracked_request import TrackedRequest

WARM_SHARE = 0.5
"""Cost of a lost prefix, as a share of a remote's effective price, from which on a session goes
last."""


def lost_prefix_nano_usd(model_state: ModelState, tracked: TrackedRequest) -> float:
    """Cost of the next turn's prefill at home, nano-USD. 0 if nothing of the prompt is cached there
    now, or if the price of the home is unknown."""
    request, fleet = tracked.request, model_state.fleet
    hits = model_state.self_hosted_hit_tokens(request)
    if hits is fleet.no_hits or not len(hits):
        return 0.0
    home = int(hits.argmax())
    rate = fleet.states[home].facts.nano_usd_per_s
    if not rate or not hits.item(home):
        return 0.0
    context = request.prompt_tokens + tracked.output_tokens
    batch = max(1.0, fleet.batch.item(home))
    return rate * fleet.groups[home].model.prefill_time_s(context, context, batch)


def waits_for_home(model_state: ModelState, tracked: TrackedRequest, now: float) -> bool:
    """Whether a request whose first token is predicted late here waits for as long as a remote is
    in time: a large part of what the remote takes would be lost at home as well."""
    spill_s = model_state.remotes.spill_s(tracked, now)
    lost_nano_usd = lost_prefix_nano_usd(model_state, tracked)
    if spill_s is None or spill_s <= now or not lost_nano_usd:
        return False
    hits = model_state.hit_tokens(tracked.request)[len(model_state.fleet) :]
    quotes = model_state.remotes.quotes(
        tracked, hits, tracked.output_tokens, now, True, lost_nano_usd
    )
    least = min((quote.effective_nano_usd for quote in quotes), default=math.inf)
    return lost_nano_usd >= WARM_SHARE * least
