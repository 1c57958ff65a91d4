"""Brings a session to what its front tells on joining.

Three things may be: the session knows a request, because only the connection was broken; or it does
not, because the scheduler is a new one, or has given the front up meanwhile; or the front does not
know what the session has. Nothing is decided twice, and no attempt is settled twice: what the
ledger has already is answered from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from msgspec import structs

from gateway.link.front_session import FrontSession
from gateway.link.owned import Booked, OwnedBranch, OwnedRequest
from gateway.link.wire.messages import ANSWERS, Kind
from gateway.link.wire.resume import BranchState, RequestState, Resumed, Standing
from scheduler.contract import Progress, Refuse
from scheduler.port import BranchKind, CountPrompt, Settled, SlotFreed, Started, Waiting

Later = Callable[[], None]


def resume(
    session: FrontSession, states: Iterable[RequestState], told: Resumed, booked: Booked
) -> list[Later]:
    """Brings the session to the state of its front. Times of requests are on this clock. Returns
    what is to be submitted once requests are admitted: what other fronts run comes first."""
    later: list[Later] = []
    session.begin_resume()
    unknown = set(session.requests.values())
    for state in states:
        known = session.numbers.get(state.branches[0].number)
        if known is None:
            _take_over(session, state, booked, later)
        else:
            unknown.discard(known.owned)
            _compare(session, known.owned, state)
    for owned in unknown:
        session.lose_request(owned)
    for key_id in told.slots.keys() | session.slots.keys():
        more = told.slots.get(key_id, 0) - session.slots[key_id]
        if more > 0:
            session.scheduler.resumption.resume_slots(key_id, more)
            session.slots[key_id] += more
        for _ in range(-more):
            session.free_slot(SlotFreed(key_id=key_id))
    if not session.has_resumed:
        session.scheduler.resumption.remember(told.remembered)
    session.has_resumed = True
    session.scheduler.resumption.restore_levels(told.levels)
    session.reported(told.reports)
    return later


def _compare(session: FrontSession, owned: OwnedRequest, state: RequestState) -> None:
    """A request that both sides know: what was on its way is applied, or sent again."""
    owned.may_have_output |= state.may_have_output
    for told in state.branches:
        branch = session.numbers.get(told.number)
        if branch is None:
            if told.standing is Standing.WAITING:
                session.submit(told.number, told.submission)
            continue
        for ended in told.ended:
            settled = branch.settled
            if settled is not None and settled.attempt.attempt == ended.start.attempt:
                session.send(Kind.SETTLED, branch.number, settled)
            else:
                session.end_attempt(ended.end)
        match told.standing:
            case Standing.RUNNING if told.start is not None:
                session.record_progress(
                    Progress(
                        request_id=told.submission.request.request_id,
                        attempt=told.start.attempt,
                        output_tokens=told.output_tokens,
                    )
                )
            case Standing.WAITING:
                _decide_again(session, branch)
            case Standing.WITHDRAWN:
                session.withdraw(branch.number)
            case Standing.OVER if branch.attempt or isinstance(branch.decision, Waiting):
                # The front has refused it meanwhile; no attempt has reached an upstream.
                session.cancel(branch)
            case _:
                pass
    if state.ended is not None:
        session.end_request(state.ended)


def _decide_again(session: FrontSession, branch: OwnedBranch) -> None:
    """Sends the last decision of a waiting branch again, which the front may not have got."""
    decision = branch.decision
    match decision:
        case Started() | Refuse() | CountPrompt():
            session.send(ANSWERS[type(decision)], branch.number, decision)
        case _:
            pass


def _take_over(
    session: FrontSession, state: RequestState, booked: Booked, later: list[Later]
) -> None:
    """A request that this scheduler does not know."""
    first = state.branches[0]
    if not state.admitted:
        if state.ended is None and first.standing is Standing.WAITING:
            later.append(session.submit_later(first.number, first.submission))
        return
    original_id = first.submission.original_id
    charged = list(state.charged)
    for told in state.branches:
        starts = [each.start for each in told.ended]
        starts += [] if told.start is None else [told.start]
        found = [booked.get((original_id, start.attempt)) for start in starts]
        charged += [each.charged_nano_usd for each in found if each is not None]
    owned = OwnedRequest(
        submission=first.submission, may_have_output=state.may_have_output, reserved=True
    )
    original = _owned_branch(owned, first)
    owned.claimed, is_held = session.scheduler.resumption.begin(
        first.submission,
        partial(session.deliver, original),
        state.reservation,
        attempts=state.attempts,
        charged=charged,
        may_have_output=state.may_have_output,
    )
    owned.stray = not is_held
    for told in state.branches:
        branch = original if told is first else _owned_branch(owned, told)
        if told.standing is not Standing.WITHDRAWN:
            _take_over_branch(session, branch, told, state, booked, later)
    if state.ended is not None:
        session.end_request(state.ended)


def _owned_branch(owned: OwnedRequest, told: BranchState) -> OwnedBranch:
    return OwnedBranch(number=told.number, owned=owned, submission=told.submission)


def _take_over_branch(
    session: FrontSession,
    branch: OwnedBranch,
    told: BranchState,
    state: RequestState,
    booked: Booked,
    later: list[Later],
) -> None:
    owned, resumption = branch.owned, session.scheduler.resumption
    claimed = owned.claimed
    assert claimed is not None
    submission, original_id = told.submission, told.submission.original_id
    is_new = told.standing is Standing.WAITING and not told.ended and not told.had_attempts
    if is_new and submission.kind is not BranchKind.ORIGINAL:
        later.append(session.submit_later(told.number, submission))
        return
    session.add(branch)
    deliver = partial(session.deliver, branch)
    for ended in told.ended:
        settled = booked.get((original_id, ended.start.attempt))
        if settled is None:
            settled = resumption.book(claimed, ended.start, ended.end)
        session.note_tokens(branch, ended.end.output_tokens)
        deliver(Settled(attempt=settled))
    if told.standing is Standing.RUNNING and told.start is not None:
        branch.resume(told.start, session.now - told.started_ago_s, told.output_tokens)
        branch.booked = booked.get((original_id, told.start.attempt))
        if branch.booked is None and not owned.stray:
            resumption.run(
                claimed,
                submission,
                deliver,
                told.start,
                started_ago_s=told.started_ago_s,
                output_tokens=told.output_tokens,
            )
    elif told.standing is Standing.WAITING and state.ended is None:
        if owned.stray:
            session.refuse_stray(branch)
            return
        if state.reservation is not None and submission.kind is BranchKind.ORIGINAL:
            request = structs.replace(
                submission.request,
                unsupported_by=state.reservation.unsupported_by,
                charge_limit_nano_usd=state.reservation.charge_limit_nano_usd,
            )
            submission = structs.replace(submission, request=request)
        later.append(partial(resumption.wait, claimed, submission, deliver, state.attempts))
