"""Decides for one model: where a request goes, and when a queued request is tried again.

A request takes the first option that applies: a self-hosted placement that meets every SLO now; the
queue, if its first token is predicted in time; the cheapest allowed remote that is in time; the
queue although the request will be late; a refusal. Price moves no request away from the first.
"""

from __future__ import annotations

from collections.abc import Callable

from scheduler.blame.quarantine import Quarantine
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
    Tick,
)
from scheduler.decisions import Tier
from scheduler.limits.retry_budget import SharedRetryBudget
from scheduler.model import transitions
from scheduler.model.awaited_server import AWAITS_SERVER, awaited_server_s
from scheduler.model.comparison import compare_end, quarantined
from scheduler.model.lost_prefix import waits_for_home
from scheduler.model.model_state import ModelState
from scheduler.model.refusals import (
    LONGEST_RETRY_S,
    UNAVAILABLE_RETRY_S,
    expired,
    queue_full,
    retry_after_failures_s,
    retry_delay_s,
    unknown_model,
    why_none_is_open,
)
from scheduler.placement.quotes import Quote
from scheduler.queue.model_queue import QueueLimits
from scheduler.queue.queued import Due, Queued
from scheduler.queue.waiting_pass import PassResult, TryResult, run_pass
from scheduler.tracked_request import TrackedRequest

SPILL_AGAIN_S = 0.25
"""Seconds between two attempts to send a queued request to a remote."""
TRY_AGAIN_S = 0.05
"""Seconds between ticks while passing time alone may let a request start, because running streams
gain slack against their TPOT SLO."""
MOST_RESTRICTED = 32
"""Placement attempts per tick for requests that are restricted to some placements, in addition to
`Policy.looks`."""
MOST_EVICTIONS = 3
OVERTAKE_SLACK_S = 1.0
"""Seconds of service by which a tenant may lead waiting tenants and still be tried on arrival."""


class ModelScheduler:
    """Decides for one model. `tracked_requests`: requests of all models, keyed by request id."""

    def __init__(
        self,
        model_state: ModelState,
        tracked_requests: dict[str, TrackedRequest],
        retries: SharedRetryBudget,
        attempts: int,
        quarantine: Quarantine | None = None,
    ) -> None:
        self.model_state = model_state
        self._tracked = tracked_requests
        self._retries = retries
        self._quarantine = Quarantine() if quarantine is None else quarantine
        self._admission = model_state.admission
        self._policy = model_state.policy
        model_state.attempts = attempts

    def set_limits(self, queue: QueueLimits, attempts: int) -> None:
        """Applies changed limits."""
        self.model_state.queue.set_limits(queue)
        self.model_state.attempts = attempts

    def decide(self, tracked: TrackedRequest, now: float) -> tuple[Action, ...]:
        """Decides about a new or retried request: the first of the five options that applies."""
        request = tracked.request
        if blame := quarantined(self.model_state, self._quarantine, request, now):
            return (self._refuse(request, RefusalReason.QUARANTINED, blame, None, now),)
        self.model_state.advance(now)
        self.model_state.urgent_pace.record(request, now)
        late = now - request.arrival_s >= tracked.ttft_s
        query = self.model_state.query(tracked, now, late=late)
        remotes_open = bool(self.model_state.remotes.open(tracked, now))
        is_open = query.possible or remotes_open
        start_s = None if is_open else awaited_server_s(self.model_state.fleet.states, request)
        if not is_open and start_s is None:
            refusal = why_none_is_open(self.model_state.states, self._admission, request, now)
            return (self._refuse(request, *refusal, now),)
        optimistic_s = 0.0 if remotes_open else self.model_state.fleet.optimistic_s
        if now + optimistic_s > request.deadline_s:
            message = "the deadline is too near for a single token"
            return (self._refuse(request, RefusalReason.DEADLINE, message, None, now),)
        quote: Quote | None = None
        evictions: tuple[Evict, ...] = ()
        if query.possible:
            slack_nano_usd = self.model_state.service_nano_usd(0, OVERTAKE_SLACK_S, 0)
            if self.model_state.queue.overtakes(request, slack_nano_usd):
                index, quote, *_ = self.model_state.try_place(query, now)
                if index is not None:
                    return (
                        transitions.start_self_hosted(
                            self.model_state, tracked, index, query, quote, now
                        ),
                    )
                evictions = self._evict(request, quote)
            else:
                quote = self.model_state.figures(query, now)
        state = self.model_state
        queued = state.queued(tracked, quote, request.deadline_s - optimistic_s, now, start_s)
        wait_s = state.wait_s(request, queued.prefill_s)
        late = quote is None or now + wait_s + queued.service_s > state.latest_wait_s(tracked)
        if late and not waits_for_home(state, tracked, now):
            any_ttft = quote is None
            action = transitions.start_remote(state, tracked, quote, now, any_ttft=any_ttft)
            if action is not None:
                return (action,)
        room, shed = self._make_room(request, now)
        if not room:
            action = transitions.start_remote(self.model_state, tracked, quote, now, any_ttft=True)
            if action is not None:
                return (action,)
            message = queue_full(self.model_state.queue, request)
            retry_s = self._retry_after_s()
            return (self._refuse(request, RefusalReason.QUEUE_FULL, message, retry_s, now),)
        self.model_state.queue.push(queued)
        tier = Tier.WAIT_LATE if late else Tier.WAIT
        reason = f"waits, {wait_s:.1f} s predicted" if start_s is None else AWAITS_SERVER
        transitions.record_decision(self.model_state, tracked, now, tier, reason, quote=quote)
        return (*shed, *evictions)

    def start_waiting(self, now: float) -> tuple[Action, ...]:
        """Starts queued requests after an event that may have made room for them."""
        return self._run_pass(now, ticks=False).actions

    def tick(self, now: float) -> Tick:
        """Processes due queue entries, starts what can start, and returns the time of the next
        tick."""
        queue = self.model_state.queue
        if not queue:
            self.model_state.advance(now)
            return Tick(actions=(), next_wake_s=None)
        actions: list[Action] = []
        for due, queued in queue.pop_due(now):
            actions.extend(self.act_on_due(due, queued, now))
        result = self._run_pass(now, ticks=True)
        actions.extend(result.actions)
        wakes_s = [queue.next_due_s()]
        if queue:
            wakes_s += [result.again_s, self.model_state.fleet.next_stale_s()]
            if queue.has_late and self.model_state.holds_late:
                wakes_s.append(now + TRY_AGAIN_S)
        next_wake_s = min((wake_s for wake_s in wakes_s if wake_s is not None), default=None)
        return Tick(actions=tuple(actions), next_wake_s=next_wake_s)

    def _run_pass(self, now: float, *, ticks: bool) -> PassResult:
        if not self.model_state.queue:
            return PassResult((), None)
        self.model_state.advance(now)
        return run_pass(
            self.model_state.queue,
            lambda queued: self._try_start(queued, now),
            most_quoted=self._policy.looks,
            most_restricted=MOST_RESTRICTED if ticks else self._policy.looks,
            hold_late=self.model_state.holds_late,
            try_put_off=ticks,
        )

    def _try_start(self, queued: Queued, now: float) -> TryResult:
        """Tries to start a queued request. A started or refused request leaves the queue."""
        request = queued.request
        tracked = self._tracked[request.request_id]
        if blame := quarantined(self.model_state, self._quarantine, request, now):
            self.model_state.queue.remove(request.request_id)
            refusal = self._refuse(request, RefusalReason.QUARANTINED, blame, None, now)
            return TryResult(refusal)
        query = self.model_state.query(tracked, now, late=queued.late)
        self.model_state.queue.set_self_hosted(queued, query.possible)
        if query.possible:
            if not query.possible_now:
                return TryResult(None, restricted=True)
            if (result := self.model_state.retry_place(query, now)) is None:
                return TryResult(None, query.restricted, all_wait=query.excluded is None)
            if result.chosen is None:
                again_s = now + TRY_AGAIN_S if result.time_may_help else None
                return TryResult(None, query.restricted, result.interfering_prefill_s, again_s)
            self.model_state.queue.remove(request.request_id)
            self.model_state.queue.credit_lower_classes(queued)
            start = transitions.start_self_hosted(
                self.model_state, tracked, result.chosen, query, result.quote, now
            )
            return TryResult(start)
        action: Action | None
        if remotes := self.model_state.remotes.open(tracked, now):
            action = transitions.start_remote(self.model_state, tracked, None, now, any_ttft=True)
            if action is None:
                opens_s = [self._admission.opens_s(s.facts.name, request, now) for s in remotes]
                again_s = min((at_s for at_s in opens_s if at_s is not None), default=None)
                return TryResult(None, restricted=True, again_s=again_s)
        elif awaited_server_s(self.model_state.fleet.states, request) is not None:
            return TryResult(None, restricted=True)
        else:
            message = f"no server of model {request.model!r} is in service"
            action = self._refuse(
                request, RefusalReason.UNAVAILABLE, message, UNAVAILABLE_RETRY_S, now
            )
        self.model_state.queue.remove(request.request_id)
        return TryResult(action)

    def act_on_due(self, due: Due, queued: Queued, now: float) -> tuple[Action, ...]:
        """Performs the due action of a queued request."""
        request = queued.request
        tracked = self._tracked[request.request_id]
        action: Action | None = None
        if due is Due.EXPIRED:
            action = transitions.start_remote(self.model_state, tracked, None, now, any_ttft=True)
            return (action or self._expire(request, now),)
        if due is Due.SPILL:
            action = transitions.start_remote(self.model_state, tracked, None, now, any_ttft=False)
            if action is not None:
                self.model_state.queue.remove(request.request_id)
            elif now + SPILL_AGAIN_S < queued.late_s:
                self.model_state.queue.schedule(queued, Due.SPILL, now + SPILL_AGAIN_S)
        elif due is Due.LAST_CALL:
            action = self._try_start(queued, now).action
        return () if action is None else (action,)

    def on_attempt_ended(
        self, tracked: TrackedRequest, event: AttemptEnded, now: float
    ) -> tuple[Action, ...]:
        """Handles the end of an attempt: the request ends, waits again, or is tried on another
        placement."""
        request = tracked.request
        state, resident = transitions.remove_attempt(self.model_state, tracked, now, event)
        self._admission.record_end(state.facts.name, event.request_id, event, now)
        outcome = transitions.learn_from_end(self.model_state, state, resident, event)
        blame = compare_end(
            self.model_state, self._quarantine, tracked, state, event,
            outcome=outcome, started_s=resident.started_s, now=now,
        )  # fmt: skip
        if event.outcome is AttemptOutcome.EVICTED:
            return self._wait_again(tracked, now)
        if event.outcome is not AttemptOutcome.RETRYABLE:
            del self._tracked[event.request_id]
            if event.outcome is AttemptOutcome.OK and tracked.attempts - tracked.evictions > 1:
                self._retries.succeeded(request.tenant)
            return self.start_waiting(now)
        tracked.record_failure(state.facts, event.fault)
        if blame:
            refusal = self._refuse(request, RefusalReason.QUARANTINED, blame, None, now)
            return (refusal, *self.start_waiting(now))
        hint = f"the last on {state.facts.name}: {event.detail}"
        tries = tracked.attempts - tracked.evictions
        open_somewhere = self.model_state.query(
            tracked, now
        ).possible or self.model_state.remotes.open(tracked, now)
        if tries >= self.model_state.attempts or not open_somewhere:
            message = f"{tries} attempts failed, {hint}"
        elif not self._retries.take(request.tenant, now):
            message = f"too many retries for the tenant and the gateway, {hint}"
        else:
            return (*self.decide(tracked, now), *self.start_waiting(now))
        retry_s = retry_after_failures_s(tracked, event, LONGEST_RETRY_S)
        refusal = self._refuse(request, RefusalReason.ATTEMPTS_EXHAUSTED, message, retry_s, now)
        return (refusal, *self.start_waiting(now))

    def _wait_again(self, tracked: TrackedRequest, now: float) -> tuple[Action, ...]:
        """Requeues an evicted request. The other queued requests are tried first."""
        tracked.evictions += 1
        if not self.model_state.states:  # a reload has removed the model
            return (self._refuse_unknown(tracked.request, now),)
        request = tracked.request
        room, shed = self._make_room(request, now)
        if not room:
            return (*self.start_waiting(now), *self.decide(tracked, now))
        quote = self.model_state.figures(self.model_state.query(tracked, now), now)
        self.model_state.queue.push(
            self.model_state.queued(tracked, quote, request.deadline_s, now)
        )
        return (*shed, *self.start_waiting(now))

    def on_cancelled(self, tracked: TrackedRequest, now: float) -> tuple[Action, ...]:
        """Handles a cancelled request: it leaves the queue or its placement."""
        request_id = tracked.request.request_id
        del self._tracked[request_id]
        self.model_state.queue.remove(request_id)
        if tracked.placement is not None:
            state, _ = transitions.remove_attempt(self.model_state, tracked, now)
            self._admission.record_end(state.facts.name, request_id, None, now)
        return self.start_waiting(now)

    def refuse_orphaned(self, now: float) -> tuple[Action, ...]:
        """Refuses what waits for no server to start, if none serves. Otherwise tries the queue."""
        if any(state.serving for state in self.model_state.states):
            return self.start_waiting(now)
        message = "no server of the model is in service"
        states = self.model_state.fleet.states
        return tuple(
            self._refuse(request, RefusalReason.UNAVAILABLE, message, UNAVAILABLE_RETRY_S, now)
            for request in self._dequeue(lambda waiting: awaited_server_s(states, waiting) is None)
        )

    def refuse_unknown_model(self, now: float) -> tuple[Action, ...]:
        """Refuses all queued requests because the model is no longer configured."""
        waiting = self._dequeue(lambda _: True)
        return tuple(self._refuse_unknown(request, now) for request in waiting)

    def _dequeue(self, leaves: Callable[[Request], bool]) -> list[Request]:
        left = [queued.request for queued in self.model_state.queue if leaves(queued.request)]
        for request in left:
            self.model_state.queue.remove(request.request_id)
        return left

    def _refuse_unknown(self, request: Request, now: float) -> Refuse:
        message = unknown_model(request.model)
        return self._refuse(request, RefusalReason.UNKNOWN_MODEL, message, None, now)

    def on_progress(
        self, tracked: TrackedRequest, event: Progress, now: float
    ) -> tuple[Action, ...]:
        """Records new tokens. A first token ends a prefill, which may make room for another
        request."""
        assert tracked.placement is not None
        index = self.model_state.fleet.index_of(tracked.placement)
        if index is None:
            tracked.placement.progress(event.request_id, event.output_tokens, now)
        elif self.model_state.fleet.progress(index, event.request_id, event.output_tokens, now):
            return self.start_waiting(now)  # a prefill has ended
        return ()

    def _make_room(self, request: Request, now: float) -> tuple[bool, tuple[Action, ...]]:
        """Returns whether the queue has room for the request, and the actions for a displaced
        request."""
        if self.model_state.queue.has_room(request):
            return True, ()
        below = self.model_state.queue.displaceable(request)
        if below is None:
            return False, ()
        self.model_state.queue.remove(below.request.request_id)
        tracked = self._tracked[below.request.request_id]
        elsewhere = transitions.start_remote(self.model_state, tracked, None, now, any_ttft=True)
        if elsewhere is not None:
            return True, (elsewhere,)
        message = "the queue is full, and a request with a better claim came"
        return True, (
            self._refuse(below.request, RefusalReason.SHED, message, self._retry_after_s(), now),
        )

    def _evict(self, request: Request, quote: Quote) -> tuple[Evict, ...]:
        """Evicts a batch-class request if that makes room for this request of a higher class."""
        if request.slo.slo_class is SloClass.BATCH or not self.model_state.batch:
            return ()
        resident = self.model_state.evictable(
            quote, lambda request_id: self._tracked[request_id].evictions < MOST_EVICTIONS
        )
        if resident is None:
            return ()
        resident.evicting = True
        request_id = resident.request.request_id
        reason = f"a request of class {request.slo.slo_class} needs the place"
        attempt = self._tracked[request_id].attempts
        return (Evict(request_id=request_id, attempt=attempt, reason=reason),)

    def _expire(self, request: Request, now: float) -> Refuse:
        start_s = awaited_server_s(self.model_state.fleet.states, request)
        reason, message = expired(request, now, awaits_server=start_s is not None)
        retry_s = None if reason is RefusalReason.DEADLINE else self._retry_after_s()
        return self._refuse(request, reason, message, retry_s, now)

    def _refuse(
        self,
        request: Request,
        reason: RefusalReason,
        message: str,
        retry_after_s: float | None,
        now: float,
    ) -> Refuse:
        tracked = self._tracked.pop(request.request_id)
        transitions.count_refusal(self.model_state, tracked, reason, now)
        transitions.record_decision(self.model_state, tracked, now, Tier.REFUSE, message)
        return Refuse(
            request_id=request.request_id,
            reason=reason,
            message=message,
            retry_after_s=retry_after_s,
        )

    def _retry_after_s(self) -> float:
        """Retry delay in seconds: the predicted time to drain the queue, within bounds."""
        return retry_delay_s(self.model_state.drain_s())
