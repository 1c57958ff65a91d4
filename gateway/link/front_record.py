"""What a front has at the scheduler: its requests, and reports that are not known to be received.

From it the front can tell a scheduler that knows nothing what runs. A report is an end of an
attempt or a request, a freed slot, or a withdrawn submission. Reports have numbers; the scheduler
says up to which one all have taken effect, and are on disk where they belong there. Until then they
are kept, and told again on joining. What is kept is bounded: beyond, the oldest is lost, and
counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import replace

from gateway.link.sent import Changes, Ended, Report, SentBranch, SentRequest, request_state
from gateway.link.wire.messages import KeyUses, Kind
from gateway.link.wire.resume import AGAIN, RequestState, Resumed, Standing
from gateway.scheduling.budget_admission import Reservation
from gateway.scheduling.claims import client_id
from gateway.scheduling.resumption import RememberedKey
from scheduler.contract import AttemptOutcome, Evict, Refuse
from scheduler.limits.idempotency import REMEMBERED_S
from scheduler.limits.rate_limit import MINUTE_S, RateLevel
from scheduler.limits.tenant_store import TenantStore
from scheduler.port import (
    NOT_ADMITTED,
    Answer,
    AttemptEnd,
    BranchKind,
    CountPrompt,
    Deliver,
    RequestEnded,
    Settled,
    SlotFreed,
    Started,
    Submission,
    Waiting,
)

log = logging.getLogger(__name__)

MAX_REPORTS = 100_000
"""Reports that are kept, some 200 MB at worst."""
MAX_REMEMBERED = 100_000
"""Idempotency keys that are kept after their requests."""


class FrontRecord:
    """The record of one front. Times are on the front's clock."""

    def __init__(self) -> None:
        self.requests: dict[str, SentRequest] = {}
        """Those that have not ended, by the id of the original branch. One without branches was
        refused here."""
        self.by_number: dict[int, SentBranch] = {}
        """Branches of all requests, by number."""
        self.reports: deque[Report] = deque()
        """Those that are not received yet."""
        self.lost_ends = 0
        """Ends of attempts that found no room, and are never booked."""
        self.last_report = 0
        """Number of the newest report."""
        self.slots: Counter[str] = Counter()
        self.changes: list[Changes] = []
        """Each gathers what changes, for whoever has added it."""
        self._levels: dict[str, tuple[RateLevel, float]] = {}
        """Rates of keys, of which there are as many as are configured, and when they were told."""
        self._by_id: dict[str, SentBranch] = {}
        self._number = 0
        self._remembered: TenantStore[tuple[str, str], tuple[RememberedKey, float]] = TenantStore(
            MAX_REMEMBERED
        )

    @property
    def branches(self) -> Iterator[SentBranch]:
        """All branches of requests that have not ended."""
        return (branch for request in self.requests.values() for branch in request.branches)

    def refused(self, original_id: str) -> None:
        """Notes a request that was refused here, until its end."""
        self.requests.setdefault(original_id, SentRequest())

    def branch(self, request_id: str) -> SentBranch | None:
        """Returns a branch of a request that has not ended; None: there is none."""
        return self._by_id.get(request_id)

    def submitted(
        self, submission: Submission, deliver: Deliver, answered: asyncio.Future[None]
    ) -> SentBranch:
        """Adds a branch."""
        self._number += 1
        request = self.requests.setdefault(submission.original_id, SentRequest())
        branch = SentBranch(
            number=self._number,
            submission=submission,
            deliver=deliver,
            answered=answered,
            request=request,
        )
        request.branches.append(branch)
        self.by_number[branch.number] = branch
        self._by_id[submission.request.request_id] = branch
        return branch

    def record_answer(self, branch: SentBranch, answer: Answer, now: float) -> bool:
        """Records an answer. Returns whether it is news to the pipeline."""
        request = branch.request
        self._changed(request)
        waits = branch.standing is Standing.WAITING and request.ended is None
        match answer:
            case Settled(attempt=settled):
                return self._settled(branch, settled.attempt, settled.charged_nano_usd)
            case Evict():
                return request.ended is None
            case _ if not waits:
                return False
            case Started(start=start):
                if branch.start is not None and start.attempt <= branch.start.attempt:
                    return False  # it was told before the connection broke
                branch.standing, branch.start = Standing.RUNNING, start
                branch.started_s, branch.output_tokens = now, 0
                request.attempts = max(request.attempts, start.attempt)
                request.admitted = True
            case Refuse(reason=reason):
                branch.standing = Standing.OVER
                if reason in NOT_ADMITTED and branch.submission.kind is BranchKind.ORIGINAL:
                    self._forget(request)
                else:
                    request.admitted = True
            case Waiting():
                request.admitted = True
            case CountPrompt():
                if branch.count_asked:
                    return False
                branch.count_asked = True
        return True

    def record_reservation(self, number: int, reservation: Reservation) -> None:
        """Records what the request of this branch holds of its budgets."""
        branch = self.by_number.get(number)
        if branch is not None:
            branch.request.reservation = reservation
            self._changed(branch.request)

    def _settled(self, branch: SentBranch, attempt: int, charged: int | None) -> bool:
        for ended in branch.ended:
            if ended.start.attempt == attempt and not ended.booked:
                ended.booked, ended.charged_nano_usd = True, charged
                news, ended.told = not ended.told, True
                _drop_if_done(branch, ended)
                return news and branch.request.ended is None
        return False

    def record_progress(self, request_id: str, attempt: int, output_tokens: int) -> bool:
        """Records the progress of an attempt. Returns whether it runs."""
        branch = self._by_id.get(request_id)
        if branch is None or not branch.runs(attempt):
            return False
        branch.output_tokens = max(branch.output_tokens, output_tokens)
        for changes in self.changes:
            changes.progress.add(branch)
        branch.request.may_have_output |= not branch.submission.request.whole_answer
        return True

    def record_end(self, end: AttemptEnd, now: float) -> Report | None:
        """Records the end of an attempt. Returns the report; None: the attempt does not run."""
        branch = self._by_id.get(end.request_id)
        if branch is None or branch.start is None or not branch.runs(end.attempt):
            return None
        ended = Ended(branch.start, branch.started_s, now, end)
        branch.ended.append(ended)
        again = end.outcome in AGAIN and not end.abandoned
        branch.standing = Standing.WAITING if again else Standing.OVER
        branch.request.may_have_output |= end.committed or end.outcome is AttemptOutcome.OK
        return self._report(Kind.ATTEMPT_END, end, branch.request, branch, ended)

    def record_request_end(self, end: RequestEnded, now: float) -> Report | None:
        """Records the end of a request. Returns the report; None: the scheduler knows nothing of
        the request."""
        request = self.requests.get(end.request_id)
        if request is None:
            return None
        self._forget(request, keep_numbers=True)
        del self.requests[end.request_id]
        if not request.branches:
            return None
        request.ended = end
        self._remember(request, end, now)
        return self._report(Kind.REQUEST_ENDED, end, request)

    def record_withdrawn(self, branch: SentBranch) -> Report:
        """Records that a submission was taken back before its first answer."""
        branch.standing = Standing.WITHDRAWN
        request, original_id = branch.request, branch.submission.original_id
        if branch.submission.kind is BranchKind.ORIGINAL:
            self._forget(request, keep_numbers=True)
            self.requests.pop(original_id, None)
            request.ended = RequestEnded(
                request_id=original_id, used_tokens=0, keep_idempotency_key=False
            )
        else:
            self._by_id.pop(branch.submission.request.request_id, None)
        return self._report(Kind.WITHDRAWN, branch.number, request, branch)

    def free_slot(self, freed: SlotFreed) -> Report:
        """Records that a slot was given back."""
        self.slots[freed.key_id] -= 1
        return self._report(Kind.SLOT_FREED, freed)

    def received(self, number: int) -> None:
        """All reports up to this one have taken effect."""
        while self.reports and self.reports[0].number <= number:
            self._drop(self.reports.popleft())

    def known(self) -> Iterator[SentRequest]:
        """Yields the requests that a scheduler needs to know of; those that have ended come first,
        because a request that runs may have the same id."""
        ended = [
            report.request
            for report in self.reports
            if report.request is not None and report.kind is not Kind.ATTEMPT_END
        ]
        over = dict.fromkeys(request for request in ended if request.ended is not None)
        for request in (*over, *list(self.requests.values())):
            if request.branches:
                yield request

    def is_known(self, request: SentRequest) -> bool:
        """Whether a scheduler needs to know of a request, which has branches."""
        original = request.branches[0]
        return self.by_number.get(original.number) is original

    def states(self, now: float) -> Iterator[RequestState]:
        """Yields the known requests, as they are told on joining."""
        return (request_state(request, now) for request in self.known())

    def resumed(self, now: float) -> Resumed:
        """Returns what is told on joining after `states`, without the view of the fleet."""
        remembered = (found for _, found in self._remembered.items())
        return Resumed(
            reports=self.last_report,
            slots={key_id: count for key_id, count in self.slots.items() if count > 0},
            remembered=tuple(
                replace(key, left_s=until_s - now) for key, until_s in remembered if until_s > now
            ),
            levels=tuple(
                replace(
                    level,
                    requests_ago_s=level.requests_ago_s + now - told_s,
                    tokens_ago_s=level.tokens_ago_s + now - told_s,
                )
                for level, told_s in self._levels.values()
                if now - told_s < MINUTE_S
            ),
        )

    def keep_keys(self, uses: KeyUses, now: float) -> None:
        """Keeps idempotency keys for the next scheduler, those of other fronts too."""
        for key in uses.used:
            self._remember_key(key, now)
        for pair in uses.freed:
            self._remembered.pop(pair)

    def keep_levels(self, levels: Iterable[RateLevel], now: float) -> None:
        """Keeps rates of keys for the next scheduler."""
        for level in levels:
            self._levels[level.key_id] = level, now

    # Internals.

    def _changed(self, request: SentRequest) -> None:
        if request.branches:
            for changes in self.changes:
                changes.requests.add(request)

    def _report(
        self,
        kind: Kind,
        message: AttemptEnd | RequestEnded | SlotFreed | int,
        request: SentRequest | None = None,
        branch: SentBranch | None = None,
        ended: Ended | None = None,
    ) -> Report:
        self.last_report += 1
        if request is not None:
            self._changed(request)
        report = Report(self.last_report, kind, message, request, branch, ended)
        self.reports.append(report)
        if len(self.reports) > MAX_REPORTS:
            oldest = self.reports.popleft()
            self._lose(oldest)
        return report

    def _lose(self, report: Report) -> None:
        if report.kind is Kind.ATTEMPT_END:
            self.lost_ends += 1
            if self.lost_ends.bit_count() == 1:  # 1, 2, 4, 8 ...
                log.error(
                    "no scheduler has taken ends of attempts for too long: %d found no room, and"
                    " are not booked, or only with the tokens that were told before",
                    self.lost_ends,
                )
        self._drop(report)

    def _drop(self, report: Report) -> None:
        """Lets go of what was kept for a report."""
        request, branch = report.request, report.branch
        if request is not None:
            self._changed(request)
        if report.ended is not None and branch is not None:
            report.ended.received = True
            _drop_if_done(branch, report.ended)
        elif branch is not None and branch.submission.kind is not BranchKind.ORIGINAL:
            branch.request.branches.remove(branch)
            self._forget_branch(branch)
        elif request is not None:
            for each in request.branches:
                self._forget_branch(each)

    def _forget(self, request: SentRequest, *, keep_numbers: bool = False) -> None:
        """Removes the names of a request's branches. `keep_numbers`: answers may still come."""
        for branch in request.branches:
            request_id = branch.submission.request.request_id
            if self._by_id.get(request_id) is branch:
                del self._by_id[request_id]
            if not keep_numbers:
                self.by_number.pop(branch.number, None)
            if not branch.answered.done():
                branch.answered.set_result(None)
        if not keep_numbers and request.branches:
            self.requests.pop(request.branches[0].submission.original_id, None)

    def _forget_branch(self, branch: SentBranch) -> None:
        self.by_number.pop(branch.number, None)

    def _remember(self, request: SentRequest, end: RequestEnded, now: float) -> None:
        submission = request.branches[0].submission
        asked = submission.request
        pair = asked.key_id, submission.idempotency_key
        if not end.keep_idempotency_key or not submission.idempotency_key:
            self._remembered.pop(pair)
            return
        key = RememberedKey(
            key_id=asked.key_id,
            idempotency_key=submission.idempotency_key,
            tenant=asked.tenant,
            client_id=client_id(asked),
            left_s=REMEMBERED_S,
        )
        self._remember_key(key, now)

    def _remember_key(self, key: RememberedKey, now: float) -> None:
        while (oldest := self._remembered.oldest()) is not None and oldest[1][1] <= now:
            self._remembered.pop(oldest[0])
        pair = key.key_id, key.idempotency_key
        self._remembered.put(key.tenant, pair, (key, now + key.left_s))


def _drop_if_done(branch: SentBranch, ended: Ended) -> None:
    """Removes an ended attempt once it is booked for good, and its account is known."""
    if ended.received and ended.booked and ended in branch.ended:
        branch.ended.remove(ended)
        branch.request.charged.append(ended.charged_nano_usd)
