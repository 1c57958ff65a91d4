"""Load of other clients in an engine, and the engine's queue, derived from its reports.

Reports come about every second and lag. They are compared with the gateway's own load at the time
of the report, external load counts only if two reports in a row show it, and old reports are
ignored. External sequences run as far as the engine runs more than the own decoding sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from scheduler.contract import EngineReport
from scheduler.metering.weights import NO_OTHERS, Others
from scheduler.step_time.step_model import StepModel
from scheduler.step_time.step_windows import total

STALE_NS = 5_000_000_000
"""The age at which the scheduler, too, ignores a report."""
SHARE_WEIGHT = 0.3
"""Weight of a new report in the running mean of the external prefill share."""
MOST_PREFILL_SHARE = 0.9


class Own(msgspec.Struct, frozen=True, gc=False):
    """The gateway's own load of a group at one time: all its sequences, and those that decode."""

    sequences: int
    decoding: int
    kv_tokens: int


def own_at(history: Sequence[tuple[int, Own]], at_ns: int) -> Own:
    """The own runs at a time, by the changes of them; the earliest known ones before those."""
    own = Own(sequences=0, decoding=0, kv_tokens=0)
    for changed_ns, state in reversed(history):
        own = state
        if changed_ns <= at_ns:
            break
    return own


@dataclass(slots=True)
class ExternalLoad:
    """External load of one group, all its placements together."""

    sequences: int = 0
    """External sequences that run."""
    kv_tokens: int = 0
    prefill_share: float = 0.0
    """Share of the time spent on external prompts, by the last reports."""
    full_at: int = 0
    """Own and external sequences that run while others queue; 0 if the engine is not full."""
    waiting: int = 0
    """Sequences in the engine's queue, by the last reports."""
    own_waiting: int = 0
    """Own sequences in the engine's queue, by what is known now."""
    max_running: int | None = None
    """Most sequences that the group runs at once, as its engines told it; None: unknown."""
    pooled: bool = False
    """Nothing is generated here. A request has many inputs, whose prompts the engine counts before
    the answer shows them, so external prompts count only beside external sequences."""
    _reports: dict[str, EngineReport] = field(default_factory=dict)
    _beyond: tuple[int, int] = (0, 0)
    _own_prompt_tokens: int = 0
    _told: tuple[int, float, int, int] = (0, 0.0, 0, 0)
    """At the last look at prompts: reports, their time, prompt tokens of all and own ones."""
    _seen_ns: int = 0

    def prompt_done(self, tokens: int) -> None:
        """Records that an own prompt was computed."""
        self._own_prompt_tokens += tokens

    def sent(self, sequences: int) -> None:
        """Records that own sequences were sent, behind those in the queue."""
        if self.own_waiting:
            self.own_waiting += sequences

    def ended(self, sequences: int) -> None:
        """Records that own sequences ended, so that as many can leave the engine's queue."""
        self.own_waiting = max(0, self.own_waiting - sequences)

    def running(self, own_decoding: int) -> Others:
        """External load that runs now.

        A full engine fills a free slot from its queue at once, so every slot that own sequences do
        not use counts as external.
        """
        if not self.sequences and not self.prefill_share:
            return NO_OTHERS
        if not self.full_at or not self.sequences:
            return Others(self.sequences, self.kv_tokens, self.prefill_share)
        now = max(0, self.full_at - own_decoding)
        return Others(now, self.kv_tokens * now // self.sequences, self.prefill_share)

    def expire(self, now_ns: int) -> bool:
        """Drops outdated figures; returns whether anything changed."""
        if (
            not (self.sequences or self.waiting or self.own_waiting or self.prefill_share)
            or now_ns - self._seen_ns <= STALE_NS
        ):
            return False
        self._forget()
        return True

    def _forget(self) -> None:
        self.sequences = self.kv_tokens = self.waiting = self.own_waiting = self.full_at = 0
        self.prefill_share = 0.0

    def take(
        self,
        report: EngineReport,
        own: Own,
        model: StepModel | None,
        now_ns: int,
        *,
        pending: int,
        sent_since: int,
    ) -> None:
        """Takes a report of one placement; `own`: of the whole group, at the report's time.

        `pending`: own sequences of that time that have no token yet; `sent_since`: newer ones.
        """
        old_s = report.at_s - STALE_NS * 1e-9  # of ranks that a reload has taken away
        self._reports = {n: each for n, each in self._reports.items() if each.at_s >= old_s}
        self._reports[report.placement] = report
        self.max_running = total([each.max_running for each in self._reports.values()])
        running = total([each.running for each in self._reports.values()])
        waiting = total([each.waiting for each in self._reports.values()])
        if running is None or waiting is None:
            # What other clients send is unknown, so only own sequences count.
            self._forget()
            self._beyond = (0, 0)
            return
        self.waiting = waiting
        beyond = max(0, running + waiting - own.sequences)
        beyond_running = min(beyond, max(0, running - own.decoding))
        last, last_running = self._beyond
        self._beyond = (beyond, beyond_running)
        beyond, self.sequences = min(beyond, last), min(beyond_running, last_running)
        own_waiting = waiting - (beyond - min(beyond, self.sequences))
        self.own_waiting = max(0, min(own_waiting, pending))
        self.sent(sent_since)
        self.full_at = running if waiting and beyond else 0
        self.kv_tokens = self._external_kv_tokens(own) if self.sequences else 0
        self._seen_ns = now_ns
        if model is not None and report.placement == next(reversed(self._reports)):
            self._prefills(report.at_s, model)
            if self.pooled and not self.sequences:
                self.prefill_share = 0.0

    def _external_kv_tokens(self, own: Own) -> int:
        """KV tokens of the external sequences; where an engine does not tell its KV cache, they are
        taken to hold as much as the own ones."""
        resident = total(
            [
                None
                if each.kv_usage is None or each.kv_capacity_tokens is None
                else int(each.kv_usage * each.kv_capacity_tokens)
                for each in self._reports.values()
            ]
        )
        if resident is None:
            return self.sequences * own.kv_tokens // max(1, own.sequences)
        return max(0, resident - own.kv_tokens)

    def _prefills(self, at_s: float, model: StepModel) -> None:
        """Estimates external prefill once all placements have reported. Each report covers only its
        own placement, and the placement that computed an own prompt is unknown."""
        reports = self._reports.values()
        told = total([report.prompt_tokens_total for report in reports])
        if told is None:
            self._told, self.prefill_share = (0, 0.0, 0, 0), 0.0
            return
        count, before_s, before, own_before = self._told
        self._told = (len(reports), at_s, told, self._own_prompt_tokens)
        elapsed_s, prompt_tokens = at_s - before_s, told - before
        own = self._own_prompt_tokens - own_before
        if count != len(reports) or elapsed_s <= 0.0 or prompt_tokens < 0:  # it was restarted
            return
        share = 0.0
        if self.sequences:
            # Otherwise a wrong estimate of own prompts would count as external work.
            share = max(0, prompt_tokens - own) * model.prefill_token_s / elapsed_s / count
        mean = self.prefill_share
        self.prefill_share = min(MOST_PREFILL_SHARE, mean + SHARE_WEIGHT * (share - mean))
