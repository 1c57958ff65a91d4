"""The path of a request through the gateway: admit, schedule, attempt, settle.

`Pipeline.run` is the entry point for every door. A request runs in the task that iterates the
generator. Cancelling that task cancels the upstream call, and a `finally` block reports the end to
the scheduler. There is no task per request and none per token. Every admitted request is ended at
the scheduler exactly once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager

from msgspec import structs

from gateway.auth.authenticator import Caller
from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.generation import Chunk, Generation
from gateway.domain.outcomes import Finished, PartialOutput, RequestOutcome, RequestRefused, refused
from gateway.domain.prompt_bound import prompt_token_bound
from gateway.domain.slices import in_one_slice
from gateway.pipeline.active_request import ActiveRequest, Branch
from gateway.pipeline.admission import Admission
from gateway.pipeline.attempt import Attempts
from gateway.pipeline.call import GenerateCall
from gateway.pipeline.continuation import continuation, may_be_continued
from gateway.pipeline.hedge import hedged
from gateway.pipeline.observer import Observe, unobserved
from gateway.pipeline.settings import PipelineSettings
from gateway.pipeline.terms import time_left_s
from gateway.pipeline.upstreams import Upstreams
from gateway.upstream.deviation_log import DeviationLog
from scheduler.contract import Fault, RefusalReason, Refuse, Request
from scheduler.decision_record import DecisionRecord
from scheduler.port import (
    NOT_ADMITTED,
    BranchKind,
    CountPrompt,
    RequestEnded,
    SchedulerPort,
    Started,
    Submission,
)

PROGRESS_INTERVAL_S = 0.05
"""Seconds between two progress reports. One message per token would cost too much."""


DEADLINE_SLACK_S = 0.05
"""A client that cancels at its own deadline does so about one network round trip before the
server's timer expires."""
_MAY_HAVE_OUTPUT = (RequestOutcome.OK, RequestOutcome.PARTIAL, RequestOutcome.CANCELLED)


class Pipeline:
    """Runs requests on the placements that the scheduler chooses. Requires the task
    `report_progress`."""

    def __init__(
        self,
        port: SchedulerPort,
        upstreams: Upstreams,
        settings: PipelineSettings,
        *,
        clock: Callable[[], float],
        observe: Observe = unobserved,
        on_tick: Callable[[], None] = lambda: None,
    ) -> None:
        """`clock`: monotonic seconds. `observe` creates the observer of each request. `on_tick` is
        called about 20 times per second while requests run."""
        self.settings = settings
        """A reload replaces the settings. A running request keeps the settings it started with."""
        self._port = port
        self._upstreams = upstreams
        self._clock = clock
        self._observe = observe
        self._on_tick = on_tick
        self.admission = Admission(port, upstreams, clock)
        self._attempts = Attempts(
            port=port,
            upstreams=upstreams.clients,
            clock=clock,
            on_refused=upstreams.notify_refused,
            on_silent=upstreams.notify_silent,
            on_adapter_missing=upstreams.notify_adapter_missing,
            deviations=DeviationLog(clock),
        )
        self._active: set[ActiveRequest] = set()
        self._wake = asyncio.Event()

    @property
    def active_requests(self) -> int:
        """Number of requests in progress."""
        return len(self._active)

    def default_output_tokens(self, model: str, caller: Caller, choices: int) -> int:
        """Returns the output limit of a request without one. It fits every placement of the
        model."""
        most = self.most_output_tokens(model, caller, choices)
        contexts = [each for each in self._contexts(model) if each is not None]
        return min([self.settings.default_max_output_tokens, most, *contexts])

    def most_output_tokens(self, model: str, caller: Caller, choices: int) -> int:
        """Returns the largest output limit that may be set: by the gateway, the key, and the
        largest context of the model."""
        bounds = [self.settings.max_output_tokens]
        if caller.max_output_tokens is not None:
            bounds.append(caller.max_output_tokens)
        most = max(1, min(bounds) // max(1, choices))
        context = self.context_tokens(model)
        return most if context is None else min(most, context)

    def context_tokens(self, model: str) -> int | None:
        """Returns the largest context of the model's placements; None: that of one is unknown."""
        contexts = self._contexts(model)
        known = [each for each in contexts if each is not None]
        return max(known) if known and len(known) == len(contexts) else None

    def _contexts(self, model: str) -> list[int | None]:
        return [each.context_tokens for each in self._port.fleet.of_model(model)]

    def deadline_s(self, call: GenerateCall) -> float:
        """Returns the deadline of a call that arrives now, in seconds on the pipeline's clock."""
        return self._clock() + time_left_s(call, self.settings)

    async def quote(self, call: GenerateCall) -> tuple[DecisionRecord, dict[str, tuple[str, ...]]]:
        """Returns the decision that the scheduler would make now, and the unsupported fields keyed
        by placement. Starts nothing. Raises RequestRefused."""
        request, _, unsupported = await self.admission.admit(call, self.settings)
        return await self._port.quote(request), unsupported

    async def run(self, call: GenerateCall) -> AsyncGenerator[Chunk | Finished, None]:
        """Yields the output of a request, then one `Finished`.

        Before the first content, a failed attempt is retried on another placement. With
        `call.whole_answer` all output is held back, so retries are possible until the end. Raises
        RequestRefused, PartialOutput, or an UpstreamFailure that no other placement can fix.
        """
        settings = self.settings
        request, generation, unsupported = await self.admission.admit(call, settings)
        keep_text = settings.failures.continue_cut_answers and not call.whole_answer
        active = ActiveRequest(
            request=request,
            generation=generation,
            observer=self._observe(request, generation),
            whole_answer=call.whole_answer,
            text=[] if keep_text and may_be_continued(generation) else None,
            waiting_since_s=request.arrival_s,
            seen_tokens=request.prompt_tokens,
            unsupported=unsupported,
            on_start=call.on_start,
        )
        with self._lifetime(active):
            branch = await self._submit(active, call, settings)
            hedging = settings.failures.hedging
            broken_off: PartialOutput | None = None
            while True:
                started = await self._decision(branch, broken_off)
                try:
                    if hedging is not None and active.attempts == 0:
                        race = hedged(
                            self._attempts, branch, started, hedging.after_s, self._start_hedge
                        )
                        async with aclosing(race) as outputs:
                            async for branch, chunk in outputs:
                                if chunk is not None:
                                    self._record(active, branch, chunk)
                                    yield chunk
                    else:
                        async with aclosing(self._attempts.run(branch, started)) as chunks:
                            async for chunk in chunks:
                                self._record(active, branch, chunk)
                                yield chunk
                except UpstreamFailure as failure:
                    if broken_off is None:
                        raise
                    raise broken_off from failure  # the client has content
                except PartialOutput as partial:
                    more = continuation(branch, partial.failure, self._upstreams.cannot_continue)
                    if more is None:
                        raise
                    broken_off = partial
                    active.record_broken(branch)
                    branch = await self._continue(active, *more)
                    continue
                if branch.usage is not None:
                    await branch.settlement()
                finished = branch.finished(self._clock())
                if finished is not None:
                    usage = finished.usage
                    active.seen_tokens = usage.prompt_tokens + usage.completion_tokens
                    if not usage.estimated:
                        self.admission.learn(active.generation, request.tenant, usage.prompt_tokens)
                    active.observer.finished(finished)
                    yield finished
                    return
                if branch.abandoned and branch.failure is not None:
                    raise branch.failure

    async def report_progress(self) -> None:
        """Reports new output tokens to the scheduler until cancelled."""
        while True:
            self._on_tick()
            for active in self._active:
                for branch in active.branches:
                    if branch.output_tokens > branch.reported_tokens:
                        self._attempts.report_progress(branch)
            if self._active:
                await asyncio.sleep(PROGRESS_INTERVAL_S)
            else:
                self._wake.clear()
                await self._wake.wait()

    @contextmanager
    def _lifetime(self, active: ActiveRequest) -> Iterator[None]:
        """Reports the end of the request to the observer and the scheduler, in all cases."""
        outcome = RequestOutcome.CANCELLED
        self._active.add(active)
        self._wake.set()
        try:
            yield
            outcome = RequestOutcome.OK
        except RequestRefused as error:
            outcome = _refused_outcome(active, error)
            active.seen_tokens = 0
            active.admitted = active.admitted and error.reason not in NOT_ADMITTED
            raise
        except PartialOutput as error:
            outcome = RequestOutcome.PARTIAL
            active.seen_tokens = error.usage.prompt_tokens + error.usage.completion_tokens
            raise
        except UpstreamFailure as error:
            late = error.kind is FailureKind.DEADLINE
            outcome = RequestOutcome.DEADLINE if late else RequestOutcome.FAILED
            raise
        finally:
            self._active.discard(active)
            # After a refusal, or a failure before content, the client may reuse its idempotency
            # key.
            keep_key = outcome in _MAY_HAVE_OUTPUT
            if outcome is RequestOutcome.CANCELLED and self._is_late(active):
                outcome = RequestOutcome.DEADLINE
            active.observer.ended(outcome)
            if active.admitted:
                self._port.send(
                    RequestEnded(
                        request_id=active.request.request_id,
                        used_tokens=active.seen_tokens,
                        keep_idempotency_key=keep_key,
                    )
                )

    def _is_late(self, active: ActiveRequest) -> bool:
        return self._clock() >= active.request.deadline_s - DEADLINE_SLACK_S

    async def _submit(
        self, active: ActiveRequest, call: GenerateCall, settings: PipelineSettings
    ) -> Branch:
        """Submits the request. Counts its prompt tokens if a budget needs the exact count."""
        request, generation = active.request, active.generation
        branch = self._branch(active, BranchKind.ORIGINAL, request, generation)
        submission = Submission(
            request=request,
            original_id=request.request_id,
            idempotency_key=call.idempotency_key,
            key_limits=call.caller.limits,
            prompt_tokens_bound=await in_one_slice(lambda: prompt_token_bound(generation)),
            max_cost_nano_usd=call.max_cost_nano_usd,
            may_be_continued=settings.failures.continue_cut_answers
            and may_be_continued(generation),
            wants_decision=active.observer.wants_decision,
        )
        await self._port.submit(submission, branch.deliver)
        active.admitted = True
        if branch.decision.done() and isinstance(branch.decision.result(), CountPrompt):
            branch.decision = asyncio.get_running_loop().create_future()
            try:
                tokens = await self.admission.count(generation)
            except UpstreamFailure:
                tokens = None  # an invalid request fails in its attempt
            await self._port.prompt_counted(request.request_id, tokens)
        return branch

    async def _decision(self, branch: Branch, broken_off: PartialOutput | None) -> Started:
        """Waits for the branch's next placement. Raises the client's error if there is none."""
        active = branch.active
        if branch.decision.done():
            active.observer.queued(0)
        answer = await branch.decision
        waited_s = self._clock() - active.waiting_since_s
        if isinstance(answer, Started):
            active.observer.started(answer.start, waited_s)
            if active.on_start is not None:
                active.on_start(answer.start)
            return answer
        assert isinstance(answer, Refuse), answer
        active.observer.refused(answer, waited_s)
        if broken_off is not None:
            raise broken_off
        raise _refusal(branch, answer)

    def _record(self, active: ActiveRequest, branch: Branch, chunk: Chunk) -> None:
        active.seen_tokens = active.request.prompt_tokens + chunk.output_tokens
        if active.text is not None:
            active.record_output(chunk)

    async def _continue(
        self, active: ActiveRequest, request: Request, generation: Generation
    ) -> Branch:
        branch = self._branch(active, BranchKind.CONTINUATION, request, generation)
        active.waiting_since_s = self._clock()
        await self._port.submit(
            Submission(
                request=request,
                original_id=active.request.request_id,
                kind=BranchKind.CONTINUATION,
                wants_decision=active.observer.wants_decision,
            ),
            branch.deliver,
        )
        return branch

    async def _start_hedge(self, beside: Branch) -> tuple[Branch, Started] | None:
        """Submits a hedge. Returns None unless the scheduler starts it at once."""
        active = beside.active
        assert beside.start is not None
        request = structs.replace(beside.request, request_id=f"{beside.request.request_id}~hedge")
        branch = self._branch(active, BranchKind.HEDGE, request, beside.generation)
        await self._port.submit(
            Submission(
                request=request,
                original_id=active.request.request_id,
                kind=BranchKind.HEDGE,
                beside=beside.start.placement,
                wants_decision=active.observer.wants_decision,
            ),
            branch.deliver,
        )
        answer = await branch.decision
        return (branch, answer) if isinstance(answer, Started) else None

    def _branch(
        self, active: ActiveRequest, kind: BranchKind, request: Request, generation: Generation
    ) -> Branch:
        branch = Branch(
            active=active,
            kind=kind,
            request=request,
            generation=generation,
            decision=asyncio.get_running_loop().create_future(),
        )
        active.branches.append(branch)
        return branch


def _refusal(branch: Branch, refuse: Refuse) -> Exception:
    """Returns the exception for the client. If the attempts ran out because of the request itself,
    it is the upstream's failure, which the client can fix."""
    last = branch.last_failure
    ran_out = refuse.reason is RefusalReason.ATTEMPTS_EXHAUSTED
    blamed = refuse.reason is RefusalReason.QUARANTINED
    # Without a second opinion, the word of the only placement that was asked holds.
    is_word = last is not None and (not last.retryable or (ran_out and last.fault is Fault.REQUEST))
    if last is not None and is_word and not blamed:
        return last
    unsupported = branch.active.unsupported
    fields = tuple(sorted({field for fields in unsupported.values() for field in fields}))
    error = refused(refuse, fields)
    error.__cause__ = last
    return error


def _refused_outcome(active: ActiveRequest, error: RequestRefused) -> RequestOutcome:
    if not active.attempts:
        return RequestOutcome.REFUSED
    late = error.reason is RefusalReason.DEADLINE
    return RequestOutcome.DEADLINE if late else RequestOutcome.FAILED
