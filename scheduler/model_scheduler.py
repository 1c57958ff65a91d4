"""The decisions of one model: which of five ways a request takes, and who is looked at when.

A request takes the first way that applies: an own placement that keeps every promise now; waiting,
if its first token is predicted in time; the cheapest remote that is allowed and in time; waiting
though it will be late; a refusal. Price never moves the first: a remote is not used because it
exists.
"""

from __future__ import annotations

import math

from scheduler import transitions as dispatching
from scheduler.contract import (
    Action,
    AttemptEnded,
    AttemptOutcome,
    Evict,
    Progress,
    Reject,
    RejectReason,
    Request,
    SloClass,
)
from scheduler.decisions import Decision, Tier
from scheduler.limits.retry_budget import RetryBudget
from scheduler.model_state import Lane
from scheduler.placement.quotes import Quote
from scheduler.queue.model_queue import Due, Queued
from scheduler.refusals import UNAVAILABLE_RETRY_S, why_none_is_open
from scheduler.request_state import Ticket

SHORTEST_RETRY_S = 0.2
LONGEST_RETRY_S = 60.0
"""Bounds of the hint when to try again, so that a wrong prediction does little harm."""
SPILL_AGAIN_S = 0.25
"""Time between two tries to send one that waits to a remote."""
MOST_EVICTIONS = 3
OVERTAKE_SLACK_S = 1.0
"""Service by which a tenant may be ahead of others that wait and still be looked at on arrival."""


class ModelDecider:
    """Decides for one model. `tickets`: of all models, by request id."""

    def __init__(
        self, lane: Lane, tickets: dict[str, Ticket], retries: RetryBudget, attempts: int
    ) -> None:
        self.lane = lane
        self._tickets = tickets
        self._retries = retries
        self._attempts = attempts
        self._gates = lane.gates
        self._policy = lane.policy

    def arrive(self, ticket: Ticket, now: float) -> tuple[Action, ...]:
        """Takes the first of the five ways that applies."""
        request = ticket.request
        self.lane.observe(now)
        late = now - request.arrival_s >= ticket.ttft_s
        ask = self.lane.ask(ticket, now, late=late)
        remotes_open = bool(self.lane.remotes.open(ticket, now))
        if not ask.possible and not remotes_open:
            refusal = why_none_is_open(self.lane.states, self._gates, request, now)
            return (self._reject(request, *refusal, now),)
        optimistic_s = 0.0 if remotes_open else self.lane.fleet.optimistic_s
        if now + optimistic_s > request.deadline_s:
            message = "the deadline is too near for a single token"
            return (self._reject(request, RejectReason.DEADLINE, message, None, now),)
        made: Quote | None = None
        evictions: tuple[Evict, ...] = ()
        if ask.possible:
            slack_nano_usd = self.lane.service_nano_usd(0, OVERTAKE_SLACK_S, 0)
            if not self._policy.late_binding or self.lane.queue.overtakes(request, slack_nano_usd):
                index, made = self.lane.look(ask, now)
                if index is not None:
                    return (dispatching.to_own(self.lane, ticket, index, ask, made, now),)
                evictions = self._evict(request, made)
            else:
                made = self.lane.figures(ask, now)
        queued = self.lane.queued(ticket, made, request.deadline_s - optimistic_s, now)
        wait_s = self.lane.wait_s(request, queued.prefill_s)
        first_s = now + wait_s + queued.service_s
        late = made is None or first_s > self._latest_wait_s(ticket)
        if late:
            action = dispatching.to_remote(self.lane, ticket, made, now, any_ttft=made is None)
            if action is not None:
                return (action,)
        room, shed = self._make_room(request, now)
        if not room:
            action = dispatching.to_remote(self.lane, ticket, made, now, any_ttft=True)
            if action is not None:
                return (action,)
            message = (
                f"the queue of model {request.model!r} is full ({len(self.lane.queue)} requests)"
            )
            return (self._reject(request, RejectReason.QUEUE_FULL, message, self._hint_s(), now),)
        self.lane.queue.push(queued)
        tier = Tier.WAIT_LATE if late else Tier.WAIT
        reason = f"waits, {wait_s:.1f} s predicted"
        dispatching.record(self.lane, ticket, now, tier, reason, made=made)
        return (*shed, *evictions)

    def pump(self, now: float) -> tuple[Action, ...]:
        """Looks for places for those who wait, in order, until looks are used up."""
        self.lane.time_heals = False
        if not self.lane.queue:
            return ()
        self.lane.observe(now)
        actions: list[Action] = []
        missed: set[str] = set()
        harmful_s = math.inf
        looking = True
        while looking:
            looking = False
            for queued in self.lane.queue.candidates(hold_late=self.lane.saturation.marked):
                if queued.request.request_id in missed or queued.prefill_s >= harmful_s:
                    continue
                action = self._try(queued, now)
                if action is not None:
                    actions.append(action)
                    looking = True  # the order has changed: begin again
                    break
                missed.add(queued.request.request_id)
                if self.lane.harm_blocked:
                    # A prefill that is no shorter would harm no fewer: not worth a look.
                    harmful_s = min(harmful_s, queued.prefill_s)
                if len(missed) >= self._policy.looks:
                    break
        return tuple(actions)

    def _try(self, queued: Queued, now: float) -> Action | None:
        """One look for a request that waits; it leaves the queue with the action."""
        request = queued.request
        ticket = self._tickets[request.request_id]
        ask = self.lane.ask(ticket, now, late=queued.late)
        action: Action | None
        if ask.possible:
            index, made = self.lane.look(ask, now)
            if index is None:
                return None
            self.lane.queue.remove(request.request_id)
            self.lane.queue.started(queued)
            return dispatching.to_own(self.lane, ticket, index, ask, made, now)
        if self.lane.remotes.open(ticket, now):
            action = dispatching.to_remote(self.lane, ticket, None, now, any_ttft=True)
        else:
            message = f"no server of model {request.model!r} is in service"
            action = self._reject(
                request, RejectReason.UNAVAILABLE, message, UNAVAILABLE_RETRY_S, now
            )
        if action is not None:
            self.lane.queue.remove(request.request_id)
        return action

    def due(self, due: Due, queued: Queued, now: float) -> tuple[Action, ...]:
        """What becomes due for a request that waits."""
        request = queued.request
        ticket = self._tickets[request.request_id]
        action: Action | None = None
        if due is Due.EXPIRED:
            action = dispatching.to_remote(self.lane, ticket, None, now, any_ttft=True)
            return (action or self._expire(request, now),)
        if due is Due.SPILL:
            action = dispatching.to_remote(self.lane, ticket, None, now, any_ttft=False)
            if action is not None:
                self.lane.queue.remove(request.request_id)
            elif now + SPILL_AGAIN_S < queued.late_s:
                self.lane.queue.remind(queued, Due.SPILL, now + SPILL_AGAIN_S)
        elif due is Due.LAST_CALL:
            action = self._try(queued, now)
        return () if action is None else (action,)

    def attempt_ended(self, ticket: Ticket, event: AttemptEnded, now: float) -> tuple[Action, ...]:
        """An attempt is over: the request ends with it, waits again, or is tried elsewhere."""
        request = ticket.request
        state, resident = dispatching.take_back(self.lane, ticket, now)
        self._gates.ended(state.facts.name, event.request_id, event, now)
        dispatching.learn(self.lane, state, resident, event)
        if event.outcome is AttemptOutcome.EVICTED:
            return self._wait_again(ticket, now)
        if event.outcome is not AttemptOutcome.RETRYABLE:
            del self._tickets[event.request_id]
            if event.outcome is AttemptOutcome.OK and ticket.attempts - ticket.evictions > 1:
                self._retries.succeeded()
            return self.pump(now)
        ticket.failed_at(state.facts, event.fault)
        hint = f"the last on {state.facts.name}: {event.detail}"
        tries = ticket.attempts - ticket.evictions
        open_somewhere = self.lane.ask(ticket, now).possible or self.lane.remotes.open(ticket, now)
        if tries >= self._attempts or not open_somewhere:
            message = f"{tries} attempts failed, {hint}"
        elif not self._retries.take(now):
            message = f"too many retries in the whole gateway, {hint}"
        else:
            return (*self.arrive(ticket, now), *self.pump(now))
        retry_s = event.retry_after_s
        retry_s = UNAVAILABLE_RETRY_S if retry_s is None else min(LONGEST_RETRY_S, retry_s)
        refusal = self._reject(request, RejectReason.ATTEMPTS_EXHAUSTED, message, retry_s, now)
        return (refusal, *self.pump(now))

    def _wait_again(self, ticket: Ticket, now: float) -> tuple[Action, ...]:
        """An evicted request goes back to the queue, and others are looked at first."""
        ticket.evictions += 1
        request = ticket.request
        room, shed = self._make_room(request, now)
        if not room:
            return (*self.pump(now), *self.arrive(ticket, now))
        made = self.lane.figures(self.lane.ask(ticket, now), now)
        self.lane.queue.push(self.lane.queued(ticket, made, request.deadline_s, now))
        return (*shed, *self.pump(now))

    def cancelled(self, ticket: Ticket, now: float) -> tuple[Action, ...]:
        """The client gave the request up."""
        request_id = ticket.request.request_id
        del self._tickets[request_id]
        self.lane.queue.remove(request_id)
        if ticket.placement is not None:
            state, _ = dispatching.take_back(self.lane, ticket, now)
            self._gates.ended(state.facts.name, request_id, None, now)
        return self.pump(now)

    def reject_stranded(self, now: float) -> tuple[Action, ...]:
        """Refuses all who wait when no placement of the model serves any more."""
        if any(state.serving for state in self.lane.states):
            return self.pump(now)
        message = "no server of the model is in service"
        stranded = [queued.request for queued in self.lane.queue]
        for request in stranded:
            self.lane.queue.remove(request.request_id)
        return tuple(
            self._reject(request, RejectReason.UNAVAILABLE, message, UNAVAILABLE_RETRY_S, now)
            for request in stranded
        )

    def progress(self, ticket: Ticket, event: Progress, now: float) -> tuple[Action, ...]:
        """Tokens came; the end of a prefill makes room for the next one."""
        assert ticket.placement is not None
        index = self.lane.fleet.index.get(ticket.placement.facts.name)
        if index is None:
            ticket.placement.progress(event.request_id, event.output_tokens, now)
        elif self.lane.fleet.progress(index, event.request_id, event.output_tokens, now):
            return self.pump(now)  # a prefill is done
        return ()

    def _make_room(self, request: Request, now: float) -> tuple[bool, tuple[Action, ...]]:
        """Whether the queue has room for the request, and what becomes of who left it for that."""
        if self.lane.queue.has_room(request):
            return True, ()
        below = self.lane.queue.give_way(request)
        if below is None:
            return False, ()
        self.lane.queue.remove(below.request.request_id)
        ticket = self._tickets[below.request.request_id]
        elsewhere = dispatching.to_remote(self.lane, ticket, None, now, any_ttft=True)
        if elsewhere is not None:
            return True, (elsewhere,)
        message = "the queue is full, and a request with a better claim came"
        return True, (self._reject(below.request, RejectReason.SHED, message, self._hint_s(), now),)

    def _evict(self, request: Request, made: Quote) -> tuple[Evict, ...]:
        """Takes a batch-class request back where that makes room for one of a higher class."""
        if request.slo.slo_class is SloClass.BATCH or not self.lane.batch:
            return ()
        resident = self.lane.evictable(
            made, lambda request_id: self._tickets[request_id].evictions < MOST_EVICTIONS
        )
        if resident is None:
            return ()
        resident.evicting = True
        request_id = resident.request.request_id
        reason = f"a request of class {request.slo.slo_class} needs the place"
        attempt = self._tickets[request_id].attempts
        return (Evict(request_id=request_id, attempt=attempt, reason=reason),)

    def _expire(self, request: Request, now: float) -> Reject:
        waited_s = now - request.arrival_s
        if now + SHORTEST_RETRY_S >= request.deadline_s:
            message = f"no room before the deadline: {waited_s:.1f} s in the queue"
            return self._reject(request, RejectReason.DEADLINE, message, None, now)
        message = f"no room within {request.slo.max_queue_s:g} s (class {request.slo.slo_class})"
        return self._reject(request, RejectReason.QUEUE_TIMEOUT, message, self._hint_s(), now)

    def _reject(
        self,
        request: Request,
        reason: RejectReason,
        message: str,
        retry_after_s: float | None,
        now: float,
    ) -> Reject:
        ticket = self._tickets.pop(request.request_id)
        dispatching.record(self.lane, ticket, now, Tier.REFUSE, message)
        return Reject(
            request_id=request.request_id,
            reason=reason,
            message=message,
            retry_after_s=retry_after_s,
        )

    def _latest_wait_s(self, ticket: Ticket) -> float:
        """Until when the first token must be predicted for a request to wait at home."""
        return ticket.request.arrival_s + self.lane.saturation.wait_share * ticket.ttft_s

    def quote(self, request: Request, now: float) -> Decision:
        """What would be decided for `request` now; nothing is started."""
        ticket = Ticket(request)
        self.lane.promise(ticket, count=False)
        ask = self.lane.ask(ticket, now)
        index, made = self.lane.look(ask, now)
        remote, remote_reason, quotes = dispatching.overflow(self.lane, ticket, now, any_ttft=True)
        wait_s = self.lane.wait_s(request, made.best_s()[0])
        first_s = now + wait_s + made.best_s()[1]
        late = not ask.possible or first_s > self._latest_wait_s(ticket)
        chosen, tier, reason = None, Tier.WAIT, f"waits, {wait_s:.1f} s predicted"
        if index is not None:
            chosen, tier = self.lane.fleet.states[index].facts.name, Tier.LOCAL
            reason = dispatching.why(made, index)
        elif late and remote is not None:
            chosen, tier, reason = remote.placement, Tier.REMOTE, remote_reason
        elif not self.lane.queue.has_room(request):
            tier, reason = Tier.REFUSE, "no place can take it, and the queue is full"
        elif late:
            tier = Tier.WAIT_LATE
        return dispatching.decision(self.lane, ticket, now, tier, reason, made, chosen, quotes)

    def _hint_s(self) -> float:
        """When a refused request is worth another try: the predicted time to drain the queue."""
        return min(LONGEST_RETRY_S, max(SHORTEST_RETRY_S, self.lane.drain_s()))
