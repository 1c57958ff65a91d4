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
    RefusalReason,
    Refuse,
    Request,
    SloClass,
)
from scheduler.decisions import Decision, Tier
from scheduler.limits.retry_budget import RetryBudget
from scheduler.model_state import ModelState
from scheduler.placement.quotes import Quote
from scheduler.queue.model_queue import Due, Queued, QueueLimits
from scheduler.refusals import UNAVAILABLE_RETRY_S, unknown_model, why_none_is_open
from scheduler.tracked_request import TrackedRequest

SHORTEST_RETRY_S = 0.2
LONGEST_RETRY_S = 60.0
"""Bounds of the hint when to try again, so that a wrong prediction does little harm."""
SPILL_AGAIN_S = 0.25
"""Time between two tries to send one that waits to a remote."""
MOST_EVICTIONS = 3
OVERTAKE_SLACK_S = 1.0
"""Service by which a tenant may be ahead of others that wait and still be looked at on arrival."""


class ModelScheduler:
    """Decides for one model. `tickets`: of all models, by request id."""

    def __init__(
        self,
        model_state: ModelState,
        tracked_requests: dict[str, TrackedRequest],
        retries: RetryBudget,
        attempts: int,
    ) -> None:
        self.model_state = model_state
        self._tracked = tracked_requests
        self._retries = retries
        self._attempts = attempts
        self._admission = model_state.admission
        self._policy = model_state.policy

    def set_limits(self, queue: QueueLimits, attempts: int) -> None:
        """Applies changed limits."""
        self.model_state.queue.set_limits(queue)
        self._attempts = attempts

    def arrive(self, tracked: TrackedRequest, now: float) -> tuple[Action, ...]:
        """Takes the first of the five ways that applies."""
        request = tracked.request
        self.model_state.observe(now)
        late = now - request.arrival_s >= tracked.ttft_s
        ask = self.model_state.ask(tracked, now, late=late)
        remotes_open = bool(self.model_state.remotes.open(tracked, now))
        if not ask.possible and not remotes_open:
            refusal = why_none_is_open(self.model_state.states, self._admission, request, now)
            return (self._reject(request, *refusal, now),)
        optimistic_s = 0.0 if remotes_open else self.model_state.fleet.optimistic_s
        if now + optimistic_s > request.deadline_s:
            message = "the deadline is too near for a single token"
            return (self._reject(request, RefusalReason.DEADLINE, message, None, now),)
        made: Quote | None = None
        evictions: tuple[Evict, ...] = ()
        if ask.possible:
            slack_nano_usd = self.model_state.service_nano_usd(0, OVERTAKE_SLACK_S, 0)
            if not self._policy.late_binding or self.model_state.queue.overtakes(
                request, slack_nano_usd
            ):
                index, made = self.model_state.look(ask, now)
                if index is not None:
                    return (dispatching.to_own(self.model_state, tracked, index, ask, made, now),)
                evictions = self._evict(request, made)
            else:
                made = self.model_state.figures(ask, now)
        queued = self.model_state.queued(tracked, made, request.deadline_s - optimistic_s, now)
        wait_s = self.model_state.wait_s(request, queued.prefill_s)
        first_s = now + wait_s + queued.service_s
        late = made is None or first_s > self._latest_wait_s(tracked)
        if late:
            action = dispatching.to_remote(
                self.model_state, tracked, made, now, any_ttft=made is None
            )
            if action is not None:
                return (action,)
        room, shed = self._make_room(request, now)
        if not room:
            action = dispatching.to_remote(self.model_state, tracked, made, now, any_ttft=True)
            if action is not None:
                return (action,)
            waiting = len(self.model_state.queue)
            message = f"the queue of model {request.model!r} is full ({waiting} requests)"
            return (self._reject(request, RefusalReason.QUEUE_FULL, message, self._hint_s(), now),)
        self.model_state.queue.push(queued)
        tier = Tier.WAIT_LATE if late else Tier.WAIT
        reason = f"waits, {wait_s:.1f} s predicted"
        dispatching.record(self.model_state, tracked, now, tier, reason, made=made)
        return (*shed, *evictions)

    def pump(self, now: float) -> tuple[Action, ...]:
        """Looks for places for those who wait, in order, until looks are used up."""
        self.model_state.time_heals = False
        if not self.model_state.queue:
            return ()
        self.model_state.observe(now)
        actions: list[Action] = []
        missed: set[str] = set()
        harmful_s = math.inf
        looking = True
        while looking:
            looking = False
            for queued in self.model_state.queue.candidates(
                hold_late=self.model_state.saturation.marked
            ):
                if queued.request.request_id in missed or queued.prefill_s >= harmful_s:
                    continue
                action = self._try(queued, now)
                if action is not None:
                    actions.append(action)
                    looking = True  # the order has changed: begin again
                    break
                missed.add(queued.request.request_id)
                if self.model_state.harm_blocked:
                    # A prefill that is no shorter would harm no fewer: not worth a look.
                    harmful_s = min(harmful_s, queued.prefill_s)
                if len(missed) >= self._policy.looks:
                    break
        return tuple(actions)

    def _try(self, queued: Queued, now: float) -> Action | None:
        """One look for a request that waits; it leaves the queue with the action."""
        request = queued.request
        tracked = self._tracked[request.request_id]
        ask = self.model_state.ask(tracked, now, late=queued.late)
        action: Action | None
        if ask.possible:
            index, made = self.model_state.look(ask, now)
            if index is None:
                return None
            self.model_state.queue.remove(request.request_id)
            self.model_state.queue.started(queued)
            return dispatching.to_own(self.model_state, tracked, index, ask, made, now)
        if self.model_state.remotes.open(tracked, now):
            action = dispatching.to_remote(self.model_state, tracked, None, now, any_ttft=True)
        else:
            message = f"no server of model {request.model!r} is in service"
            action = self._reject(
                request, RefusalReason.UNAVAILABLE, message, UNAVAILABLE_RETRY_S, now
            )
        if action is not None:
            self.model_state.queue.remove(request.request_id)
        return action

    def due(self, due: Due, queued: Queued, now: float) -> tuple[Action, ...]:
        """What becomes due for a request that waits."""
        request = queued.request
        tracked = self._tracked[request.request_id]
        action: Action | None = None
        if due is Due.EXPIRED:
            action = dispatching.to_remote(self.model_state, tracked, None, now, any_ttft=True)
            return (action or self._expire(request, now),)
        if due is Due.SPILL:
            action = dispatching.to_remote(self.model_state, tracked, None, now, any_ttft=False)
            if action is not None:
                self.model_state.queue.remove(request.request_id)
            elif now + SPILL_AGAIN_S < queued.late_s:
                self.model_state.queue.remind(queued, Due.SPILL, now + SPILL_AGAIN_S)
        elif due is Due.LAST_CALL:
            action = self._try(queued, now)
        return () if action is None else (action,)

    def attempt_ended(
        self, tracked: TrackedRequest, event: AttemptEnded, now: float
    ) -> tuple[Action, ...]:
        """An attempt is over: the request ends with it, waits again, or is tried elsewhere."""
        request = tracked.request
        state, resident = dispatching.take_back(self.model_state, tracked, now)
        self._admission.ended(state.facts.name, event.request_id, event, now)
        dispatching.learn(self.model_state, state, resident, event)
        if event.outcome is AttemptOutcome.EVICTED:
            return self._wait_again(tracked, now)
        if event.outcome is not AttemptOutcome.RETRYABLE:
            del self._tracked[event.request_id]
            if event.outcome is AttemptOutcome.OK and tracked.attempts - tracked.evictions > 1:
                self._retries.succeeded()
            return self.pump(now)
        tracked.failed_at(state.facts, event.fault)
        hint = f"the last on {state.facts.name}: {event.detail}"
        tries = tracked.attempts - tracked.evictions
        open_somewhere = self.model_state.ask(
            tracked, now
        ).possible or self.model_state.remotes.open(tracked, now)
        if tries >= self._attempts or not open_somewhere:
            message = f"{tries} attempts failed, {hint}"
        elif not self._retries.take(now):
            message = f"too many retries in the whole gateway, {hint}"
        else:
            return (*self.arrive(tracked, now), *self.pump(now))
        retry_s = event.retry_after_s
        retry_s = UNAVAILABLE_RETRY_S if retry_s is None else min(LONGEST_RETRY_S, retry_s)
        refusal = self._reject(request, RefusalReason.ATTEMPTS_EXHAUSTED, message, retry_s, now)
        return (refusal, *self.pump(now))

    def _wait_again(self, tracked: TrackedRequest, now: float) -> tuple[Action, ...]:
        """An evicted request goes back to the queue, and others are looked at first."""
        tracked.evictions += 1
        if not self.model_state.states:  # a reload has removed the model
            return (self._reject_unknown(tracked.request, now),)
        request = tracked.request
        room, shed = self._make_room(request, now)
        if not room:
            return (*self.pump(now), *self.arrive(tracked, now))
        made = self.model_state.figures(self.model_state.ask(tracked, now), now)
        self.model_state.queue.push(self.model_state.queued(tracked, made, request.deadline_s, now))
        return (*shed, *self.pump(now))

    def cancelled(self, tracked: TrackedRequest, now: float) -> tuple[Action, ...]:
        """The client gave the request up."""
        request_id = tracked.request.request_id
        del self._tracked[request_id]
        self.model_state.queue.remove(request_id)
        if tracked.placement is not None:
            state, _ = dispatching.take_back(self.model_state, tracked, now)
            self._admission.ended(state.facts.name, request_id, None, now)
        return self.pump(now)

    def reject_stranded(self, now: float) -> tuple[Action, ...]:
        """Refuses all who wait when no placement of the model serves any more."""
        if any(state.serving for state in self.model_state.states):
            return self.pump(now)
        message = "no server of the model is in service"
        return tuple(
            self._reject(request, RefusalReason.UNAVAILABLE, message, UNAVAILABLE_RETRY_S, now)
            for request in self._empty_queue()
        )

    def reject_all_unknown(self, now: float) -> tuple[Action, ...]:
        """Refuses all who wait: the model is not configured any more."""
        return tuple(self._reject_unknown(request, now) for request in self._empty_queue())

    def _empty_queue(self) -> list[Request]:
        waiting = [queued.request for queued in self.model_state.queue]
        for request in waiting:
            self.model_state.queue.remove(request.request_id)
        return waiting

    def _reject_unknown(self, request: Request, now: float) -> Refuse:
        message = unknown_model(request.model)
        return self._reject(request, RefusalReason.UNKNOWN_MODEL, message, None, now)

    def progress(self, tracked: TrackedRequest, event: Progress, now: float) -> tuple[Action, ...]:
        """Tokens came; the end of a prefill makes room for the next one."""
        assert tracked.placement is not None
        index = self.model_state.fleet.index_of(tracked.placement)
        if index is None:
            tracked.placement.progress(event.request_id, event.output_tokens, now)
        elif self.model_state.fleet.progress(index, event.request_id, event.output_tokens, now):
            return self.pump(now)  # a prefill is done
        return ()

    def _make_room(self, request: Request, now: float) -> tuple[bool, tuple[Action, ...]]:
        """Whether the queue has room for the request, and what becomes of who left it for that."""
        if self.model_state.queue.has_room(request):
            return True, ()
        below = self.model_state.queue.give_way(request)
        if below is None:
            return False, ()
        self.model_state.queue.remove(below.request.request_id)
        tracked = self._tracked[below.request.request_id]
        elsewhere = dispatching.to_remote(self.model_state, tracked, None, now, any_ttft=True)
        if elsewhere is not None:
            return True, (elsewhere,)
        message = "the queue is full, and a request with a better claim came"
        return True, (
            self._reject(below.request, RefusalReason.SHED, message, self._hint_s(), now),
        )

    def _evict(self, request: Request, made: Quote) -> tuple[Evict, ...]:
        """Takes a batch-class request back where that makes room for one of a higher class."""
        if request.slo.slo_class is SloClass.BATCH or not self.model_state.batch:
            return ()
        resident = self.model_state.evictable(
            made, lambda request_id: self._tracked[request_id].evictions < MOST_EVICTIONS
        )
        if resident is None:
            return ()
        resident.evicting = True
        request_id = resident.request.request_id
        reason = f"a request of class {request.slo.slo_class} needs the place"
        attempt = self._tracked[request_id].attempts
        return (Evict(request_id=request_id, attempt=attempt, reason=reason),)

    def _expire(self, request: Request, now: float) -> Refuse:
        waited_s = now - request.arrival_s
        if now + SHORTEST_RETRY_S >= request.deadline_s:
            message = f"no room before the deadline: {waited_s:.1f} s in the queue"
            return self._reject(request, RefusalReason.DEADLINE, message, None, now)
        message = f"no room within {request.slo.max_queue_s:g} s (class {request.slo.slo_class})"
        return self._reject(request, RefusalReason.QUEUE_TIMEOUT, message, self._hint_s(), now)

    def _reject(
        self,
        request: Request,
        reason: RefusalReason,
        message: str,
        retry_after_s: float | None,
        now: float,
    ) -> Refuse:
        tracked = self._tracked.pop(request.request_id)
        dispatching.record(self.model_state, tracked, now, Tier.REFUSE, message)
        return Refuse(
            request_id=request.request_id,
            reason=reason,
            message=message,
            retry_after_s=retry_after_s,
        )

    def _latest_wait_s(self, tracked: TrackedRequest) -> float:
        """Until when the first token must be predicted for a request to wait at home."""
        return tracked.request.arrival_s + self.model_state.saturation.wait_share * tracked.ttft_s

    def quote(self, request: Request, now: float) -> Decision:
        """What would be decided for `request` now; nothing is started."""
        tracked = TrackedRequest(request)
        self.model_state.promise(tracked, count=False)
        ask = self.model_state.ask(tracked, now)
        index, made = self.model_state.look(ask, now)
        remote, remote_reason, quotes = dispatching.overflow(
            self.model_state, tracked, now, any_ttft=True
        )
        wait_s = self.model_state.wait_s(request, made.best_s()[0])
        first_s = now + wait_s + made.best_s()[1]
        late = not ask.possible or first_s > self._latest_wait_s(tracked)
        chosen, tier, reason = None, Tier.WAIT, f"waits, {wait_s:.1f} s predicted"
        if index is not None:
            chosen, tier = self.model_state.fleet.states[index].facts.name, Tier.LOCAL
            reason = dispatching.why(made, index)
        elif late and remote is not None:
            chosen, tier, reason = remote.placement, Tier.REMOTE, remote_reason
        elif not self.model_state.queue.has_room(request):
            tier, reason = Tier.REFUSE, "no place can take it, and the queue is full"
        elif late:
            tier = Tier.WAIT_LATE
        return dispatching.decision(
            self.model_state, tracked, now, tier, reason, made, chosen, quotes
        )

    def _hint_s(self) -> float:
        """When a refused request is worth another try: the predicted time to drain the queue."""
        return min(LONGEST_RETRY_S, max(SHORTEST_RETRY_S, self.model_state.drain_s()))
