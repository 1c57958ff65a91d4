"""One pass over the requests that wait: which of them are tried, in which order, and how many.

The pass knows no placements: `try_start` tries one request and returns the outcome. A pass costs a
bounded number of tries, however long the queue is. The bound must not let a request that cannot
start hide one that can, so the tries are counted by kind:

- A request that was quoted on every self-hosted placement and got no place competes with all later
  requests. After `most_quoted` of these the pass ends, and lower classes wait. If what keeps the
  request waiting keeps every other one waiting that is in time and to which all placements are
  open, those are counted and not tried.
- A request to which only some placements are open gives no information on later requests:
  `most_restricted` bounds the tries of such requests, and they hold no class back.
- A prefill may be ruled out because it would interfere with running streams. A later request with a
  prefill at least as long is put off, because it would most likely interfere with as many streams.
  This is a guess, so with `try_put_off` the first `most_quoted` of these requests are tried after
  the others.
- A request that only remotes can take waits in a line of its own, and hides no other. The first
  `most_restricted` of these are tried last.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from scheduler.contract import Action
from scheduler.queue.model_queue import ModelQueue
from scheduler.queue.queued import Queued


class TryResult(NamedTuple):
    """The outcome of one try to start a request.

    `action`: the action to take, if the request has left the queue. The other fields apply if
    `action` is None. `restricted`: some placements are not open to the request at all, or none is
    open to it now. `interfering_prefill_s`: shortest prefill on the placements that were ruled out
    only because of interference with running streams; None if there were none. `again_s`: time at
    which the outcome may change without an event; None if only an event can change it.
    `all_wait`: no placement takes any request now that is in time.
    """

    action: Action | None
    restricted: bool = False
    interfering_prefill_s: float | None = None
    again_s: float | None = None
    all_wait: bool = False


class PassResult(NamedTuple):
    """The result of a pass. `again_s`: time at which the result may change without an event; None
    if only an event can change it."""

    actions: tuple[Action, ...]
    again_s: float | None


def run_pass(
    queue: ModelQueue,
    try_start: Callable[[Queued], TryResult],
    *,
    most_quoted: int,
    most_restricted: int,
    hold_late: bool,
    try_put_off: bool,
) -> PassResult:
    """Tries the requests that wait, in the order of the queue, by the rules of this module."""
    actions: list[Action] = []
    again_s = math.inf
    failed: set[str] = set()
    put_off: list[Queued] = []
    interfering_prefill_s = math.inf
    competing_rank = math.inf
    quoted = restricted = 0
    all_wait = False
    started = True
    while started:
        started = False
        put_off.clear()
        for rank, queued in queue.candidates(hold_late=hold_late):
            if rank > competing_rank:
                break
            if queued.request.request_id in failed:
                continue
            if queued.prefill_s >= interfering_prefill_s:
                put_off.append(queued)
                competing_rank = min(competing_rank, rank)
                continue
            waits = all_wait and not (queued.may_differ or queued.late)
            result = TryResult(None) if waits else try_start(queued)
            if result.action is not None:
                actions.append(result.action)
                started = True  # the order has changed: begin again
                break
            failed.add(queued.request.request_id)
            if result.again_s is not None:
                again_s = min(again_s, result.again_s)
            if result.restricted:
                restricted += 1
                if restricted >= most_restricted:
                    break
                continue
            competing_rank = min(competing_rank, rank)
            if result.interfering_prefill_s is not None:
                interfering_prefill_s = min(interfering_prefill_s, result.interfering_prefill_s)
            quoted += 1
            all_wait |= result.all_wait
            if quoted >= most_quoted:
                break
    remote_tries = 0
    started = True
    while started:
        started = False
        for queued in queue.for_remotes():
            if queued.request.request_id in failed:
                continue
            if remote_tries >= most_restricted:
                break
            remote_tries += 1
            result = try_start(queued)
            if result.action is not None:
                actions.append(result.action)
                started = True
                break
            failed.add(queued.request.request_id)
            if result.again_s is not None:
                again_s = min(again_s, result.again_s)
    for queued in put_off[:most_quoted] if try_put_off else ():
        if queued.request.request_id not in queue:
            continue  # it was put off twice, and has been started
        result = try_start(queued)
        if result.action is not None:
            actions.append(result.action)
        elif result.again_s is not None:
            again_s = min(again_s, result.again_s)
    return PassResult(tuple(actions), None if again_s == math.inf else again_s)
