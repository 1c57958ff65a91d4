"""What others run in an engine, and what the engine only queues: from its reports, for the meter.

Reports come about every second and lag, so they are compared with what the gateway ran at their
time, only what two in a row show counts, and a report that is too old says nothing. Of what is
beyond the own sequences, the part that runs is what the engine runs beyond the own that decode.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from scheduler.contract import EngineReport
from scheduler.step_time.step_model import StepModel

STALE_NS = 5_000_000_000
"""As long as the scheduler believes a report."""
SHARE_WEIGHT = 0.3
"""Weight of a new report in the mean share of others' prefills."""
MOST_PREFILL_SHARE = 0.9


class Own(NamedTuple):
    """What the gateway ran on a group at some time: `sequences` of all, and those that decode."""

    sequences: int
    decoding: int
    kv_tokens: int


@dataclass(slots=True)
class ExternalLoad:
    """Load of others on one group: all its placements together."""

    sequences: int = 0
    """That run."""
    kv_tokens: int = 0
    prefill_share: float = 0.0
    """Part of the time that goes into others' prompts, as the last reports show."""
    full_at: int = 0
    """Sequences that run while others wait, own and external; 0: the engine is not full."""
    waiting: int = 0
    """In the engine's queue, by the last reports."""
    own_waiting: int = 0
    """Own ones in the queue, as far as is known now."""
    _reports: dict[str, EngineReport] = field(default_factory=dict)
    _beyond: tuple[int, int] = (0, 0)
    _own_prompt_tokens: int = 0
    _told: tuple[int, float, int, int] = (0, 0.0, 0, 0)
    """At the last look at prompts: reports, their time, prompt tokens of all and own ones."""
    _seen_ns: int = 0

    def prompt_done(self, tokens: int) -> None:
        """An own prompt was computed."""
        self._own_prompt_tokens += tokens

    def sent(self, sequences: int) -> None:
        """Own sequences were sent: behind those that wait."""
        if self.own_waiting:
            self.own_waiting += sequences

    def ended(self, sequences: int) -> None:
        """Own sequences ended: the engine can take as many from its queue."""
        self.own_waiting = max(0, self.own_waiting - sequences)

    def running(self, own_decoding: int) -> tuple[int, int]:
        """Their sequences that run now, and the KV tokens of these.

        A full engine fills a free place from its queue at once: what is not own is theirs.
        """
        if not self.full_at or not self.sequences:
            return self.sequences, self.kv_tokens
        now = max(0, self.full_at - own_decoding)
        return now, self.kv_tokens * now // self.sequences

    def expire(self, now_ns: int) -> bool:
        """Forgets figures that are too old; whether anything changed."""
        if now_ns - self._seen_ns <= STALE_NS or not (
            self.sequences or self.waiting or self.own_waiting or self.prefill_share
        ):
            return False
        self.sequences = self.kv_tokens = self.waiting = self.own_waiting = self.full_at = 0
        self.prefill_share = 0.0
        return True

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
        reports = self._reports.values()
        running = sum(each.running for each in reports)
        self.waiting = waiting = sum(each.waiting for each in reports)
        beyond = max(0, running + waiting - own.sequences)
        beyond_running = min(beyond, max(0, running - own.decoding))
        last, last_running = self._beyond
        self._beyond = (beyond, beyond_running)
        beyond, self.sequences = min(beyond, last), min(beyond_running, last_running)
        own_waiting = waiting - (beyond - min(beyond, self.sequences))
        self.own_waiting = max(0, min(own_waiting, pending))
        self.sent(sent_since)
        self.full_at = running if waiting and beyond else 0
        resident = sum(int(each.kv_usage * (each.kv_capacity_tokens or 0)) for each in reports)
        self.kv_tokens = max(0, resident - own.kv_tokens) if self.sequences else 0
        self._seen_ns = now_ns
        if model is not None and report.placement == next(reversed(self._reports)):
            self._prefills(report.at_s, model)

    def _prefills(self, at_s: float, model: StepModel) -> None:
        """Looks at prompts once all placements have reported: each tells its own, and which of the
        own prompts were computed where is not known."""
        reports = self._reports.values()
        told = sum(report.prompt_tokens_total for report in reports)
        count, before_s, before, own_before = self._told
        self._told = (len(reports), at_s, told, self._own_prompt_tokens)
        elapsed_s, prompt_tokens = at_s - before_s, told - before
        own = self._own_prompt_tokens - own_before
        if count != len(reports) or elapsed_s <= 0.0 or prompt_tokens < 0:  # it was restarted
            return
        share = 0.0
        if self.sequences:
            # Else a wrong estimate of own prompts would look like others' work.
            share = max(0, prompt_tokens - own) * model.prefill_token_s / elapsed_s / count
        mean = self.prefill_share
        self.prefill_share = min(MOST_PREFILL_SHARE, mean + SHARE_WEIGHT * (share - mean))
