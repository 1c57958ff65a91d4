"""What others run in an engine, and what the engine only queues: from its reports, for the meter.

Reports come about every second and lag by a step, so only what two in a row show counts, and a
report that is too old says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from scheduler.step_model import StepModel
from scheduler.types import EngineReport

STALE_NS = 5_000_000_000
"""As long as the scheduler believes a report."""
SHARE_WEIGHT = 0.3
"""Weight of a new report in the mean share of others' prefills."""
MOST_PREFILL_SHARE = 0.9


@dataclass(slots=True)
class _Engine:
    """One placement of the group."""

    report: EngineReport | None = None
    beyond: int = 0
    sequences: int = 0
    kv_tokens: int = 0


@dataclass(slots=True)
class ExternalLoad:
    """Load of others on one group: all its placements together."""

    sequences: int = 0
    kv_tokens: int = 0
    prefill_share: float = 0.0
    """Part of the time that goes into others' prompts, as the last reports show."""
    _engines: dict[str, _Engine] = field(default_factory=dict)
    _waiting: int = 0
    """Sequences in the engine's queue."""
    _own_prompt_tokens: int = 0
    _told_prompt_tokens: int = 0
    _seen_ns: int = 0

    def prompt_done(self, tokens: int) -> None:
        """An own prompt was computed."""
        self._own_prompt_tokens += tokens

    def ended(self, sequences: int) -> None:
        """Own sequences ended: the engine can take as many from its queue."""
        self._waiting = max(0, self._waiting - sequences)

    def engine_full(self, pending_sequences: int) -> bool:
        """Whether every own prompt that has no token yet is only queued."""
        return self._waiting >= pending_sequences > 0

    def expire(self, now_ns: int) -> bool:
        """Forgets figures that are too old; whether anything changed."""
        if now_ns - self._seen_ns <= STALE_NS or not (
            self.sequences or self._waiting or self.prefill_share
        ):
            return False
        self.sequences = self.kv_tokens = self._waiting = 0
        self.prefill_share = 0.0
        return True

    def take(
        self,
        report: EngineReport,
        *,
        own_sequences: int,
        own_kv_tokens: int,
        model: StepModel | None,
        now_ns: int,
    ) -> None:
        """Takes a report of one placement; `own_*` are those that the gateway has sent there."""
        engine = self._engines.setdefault(report.placement, _Engine())
        before, engine.report = engine.report, report
        beyond = max(0, report.running + report.waiting - own_sequences)
        engine.sequences = min(beyond, engine.beyond)
        engine.beyond = beyond
        capacity = report.kv_capacity_tokens or 0
        resident = int(report.kv_usage * capacity)
        engine.kv_tokens = max(0, resident - own_kv_tokens) if engine.sequences else 0
        engines = self._engines.values()
        self.sequences = sum(other.sequences for other in engines)
        self.kv_tokens = sum(other.kv_tokens for other in engines)
        self._waiting = sum(other.report.waiting for other in engines if other.report)
        self._seen_ns = now_ns
        if before is not None and model is not None:
            self._prefills(before, report, model)

    def _prefills(self, before: EngineReport, report: EngineReport, model: StepModel) -> None:
        elapsed_s = report.at_s - before.at_s
        prompt_tokens = report.prompt_tokens_total - before.prompt_tokens_total
        own = self._own_prompt_tokens - self._told_prompt_tokens
        self._told_prompt_tokens = self._own_prompt_tokens
        if elapsed_s <= 0.0 or prompt_tokens < 0:  # the engine was restarted
            return
        share = 0.0
        if self.sequences:
            # Else a wrong estimate of own prompts would look like others' work.
            share = max(0, prompt_tokens - own) * model.prefill_token_s / elapsed_s
        mean = self.prefill_share
        self.prefill_share = min(MOST_PREFILL_SHARE, mean + SHARE_WEIGHT * (share - mean))
