"""Copies of what leaders' own fronts have: such a front ends with its leader's process, and nobody
would tell the next scheduler what it ran. Another front keeps a copy, and tells it on joining.

The copy follows the front about twenty times a second. What the front counted since, and a request
that started since, are not in it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from msgspec import structs

from gateway.link.wire.messages import LinkError, with_durations
from gateway.link.wire.resume import BranchState, FrontCopy, RequestState, Standing

log = logging.getLogger(__name__)

MAX_FRONTS = 8
"""Fronts of which a copy is kept at most. Each was a leader's, and has not come back since."""
MAX_REQUESTS = 200_000
"""Most requests of one of them."""
PIECE = 200
"""Requests that are told at once, some 10 ms."""


@dataclass(slots=True, eq=False)
class KeptFront:
    """The copy of one front. `told_s`: when it was told last; `complete`: whether everything was
    told by then; `requests`: by the number of their original branch, each with the time when it was
    told."""

    front: str
    term: int
    told_s: float
    complete: bool = False
    requests: dict[int, tuple[RequestState, float]] = field(default_factory=dict)
    progress: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Attempt and output tokens of a branch, newer than its request."""

    def states(self, now: float) -> Iterator[RequestState]:
        """Yields the requests, with what was told of their progress."""
        for state, told_s in self.requests.values():
            branches = tuple(self._newest(each, now - told_s) for each in state.branches)
            yield replace(state, branches=branches)

    def _newest(self, branch: BranchState, ago_s: float) -> BranchState:
        attempt, tokens = self.progress.get(branch.number, (0, 0))
        runs = branch.standing is Standing.RUNNING and branch.start is not None
        if branch.start is None or branch.start.attempt != attempt:
            tokens = 0
        asked = with_durations(branch.submission.request, ago_s)
        return replace(
            branch,
            submission=structs.replace(branch.submission, request=asked),
            started_ago_s=branch.started_ago_s + ago_s if runs else 0.0,
            output_tokens=max(branch.output_tokens, tokens),
            ended=tuple(
                replace(each, started_ago_s=each.started_ago_s + ago_s) for each in branch.ended
            ),
        )


class FrontCopies:
    """The copies that one front keeps, or that it has told a scheduler."""

    def __init__(self) -> None:
        self.fronts: dict[str, KeptFront] = {}
        """By incarnation, that which was told last at the end."""

    def keep(self, part: FrontCopy, now: float) -> None:
        """Keeps a part. `now`: monotonic seconds. Raises LinkError for too many requests."""
        kept = self.fronts.pop(part.front, None)
        if kept is None or part.begins:
            kept = KeptFront(part.front, part.term, now)
        self.fronts[part.front] = kept
        kept.told_s = now - part.ago_s
        kept.complete = part.complete
        for number in part.over:
            self._drop(kept, number)
        for state in part.requests:
            number = state.branches[0].number
            self._drop(kept, number)
            kept.requests[number] = state, now
        for number, attempt, tokens in part.progress:
            kept.progress[number] = attempt, tokens
        if len(kept.requests) > MAX_REQUESTS:
            raise LinkError(f"the copy of a front with more than {MAX_REQUESTS} requests")
        while len(self.fronts) > MAX_FRONTS:
            lost = self.fronts.pop(next(iter(self.fronts)))
            log.error("%d requests of front %s may be lost", len(lost.requests), lost.front)

    def forget(self, front: str) -> None:
        """The copy of this front is needed no more."""
        self.fronts.pop(front, None)

    def told(self, now: float) -> Iterator[FrontCopy]:
        """Yields the parts to be told to a scheduler."""
        for kept in self.fronts.values():
            states = list(kept.states(now))
            for start in range(0, max(1, len(states)), PIECE):
                yield FrontCopy(
                    front=kept.front,
                    term=kept.term,
                    ago_s=now - kept.told_s,
                    begins=start == 0,
                    complete=kept.complete and start + PIECE >= len(states),
                    requests=tuple(states[start : start + PIECE]),
                )

    @staticmethod
    def _drop(kept: KeptFront, number: int) -> None:
        state, _ = kept.requests.pop(number, (None, 0.0))
        if state is not None:
            for branch in state.branches:
                kept.progress.pop(branch.number, None)
