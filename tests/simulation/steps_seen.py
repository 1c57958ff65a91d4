"""An engine reduced to its steps and counters, whose truth the tests of the fit know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scheduler.contract import EngineReport
from scheduler.engine_steps import EngineCounts
from scheduler.step_time.own_load import OwnLoad
from scheduler.step_time.prefill_periods import PrefillPeriod
from scheduler.step_time.step_fit import StepFit
from scheduler.step_time.step_model import FloatArray, StepModel
from scheduler.step_time.step_windows import WindowMeter

CAPACITY_TOKENS = 1_000_000
REPORT_S = 1.0


@dataclass(slots=True)
class SeenEngine:
    """Steps with a load that changes slowly; reports once a second.

    Attributes:
        truth: what a step takes, before the noise.
        foreign_share: of the sequences, not sent by the gateway.
        counters: whether the engine has counters of its gaps.
        coalesce_s: the gateway sees the tokens of its streams only so often, and later.
        tokens_per_step: of each sequence.
    """

    truth: StepModel
    seed: int = 0
    noise: float = 0.1
    foreign_share: float = 0.0
    counters: bool = True
    coalesce_s: float = 0.0
    prefill_every: int = 0
    prompt_tokens: int = 1000
    tokens_per_step: int = 1
    batches: tuple[float, float] = (4.0, 64.0)
    context_tokens: float = 2000.0

    def run(
        self,
        fit: StepFit,
        steps: int,
        *,
        start_s: float = 0.0,
        meter: WindowMeter | None = None,
        change: Callable[[int], StepModel] | None = None,
    ) -> list[tuple[float, float]]:
        """Feeds `fit` and returns the batches and KV tokens that occurred."""
        rng = np.random.default_rng(self.seed)
        meter = meter or WindowMeter()
        own = OwnLoad()
        now, next_report_s, next_read_s = start_s, start_s, start_s
        level, held, waited_s = float(np.mean(self.batches)), 0, 0.0
        gaps = generated = prompts = prefills = 0
        gaps_s = 0.0
        visited: list[tuple[float, float]] = []
        mine = 0
        for step in range(steps):
            truth = self.truth if change is None else change(step)
            level += rng.normal(0.0, 1.5)
            level = float(np.clip(level, *self.batches))
            batch = round(level)
            kv = batch * self.context_tokens
            visited.append((batch, kv))
            period: PrefillPeriod | None = None
            took_s = truth.decode_step_s(batch, kv) * (1 + self.noise * rng.standard_normal())
            if self.prefill_every and rng.random() < 1 / self.prefill_every:
                prompt = int(rng.lognormal(np.log(self.prompt_tokens), 1.0))
                took_s += truth.prefill_time_s(prompt, prompt, batch)
                prompts += prompt
                prefills += 1
                own.first_token(sequences=1, prompt_tokens=prompt, uncached_tokens=prompt)
                period = one_step(now, took_s, prompt, batch, kv)
            took_s = max(took_s, 1e-4)
            now += took_s
            if period is not None:
                fit.observe_period(period)
            foreign = round(batch * self.foreign_share)
            mine = batch - foreign
            held += mine * self.tokens_per_step
            waited_s += mine * took_s
            if now >= next_read_s:
                own.tokens(held, waited_s)
                held, waited_s, next_read_s = 0, 0.0, now + self.coalesce_s
            gaps += batch
            gaps_s += batch * took_s
            generated += batch * self.tokens_per_step
            if now < next_report_s:
                continue
            next_report_s = now + REPORT_S
            counts = EngineCounts(
                gaps=gaps,
                gaps_s=gaps_s,
                first_tokens=prefills,
                steps=step + 1,
                cached_prompt_tokens=0,
            )
            report = EngineReport(
                placement="p",
                at_s=now,
                running=batch,
                waiting=0,
                kv_usage=kv / CAPACITY_TOKENS,
                prompt_tokens_total=prompts,
                generation_tokens_total=generated + prefills,
                kv_capacity_tokens=CAPACITY_TOKENS,
                counts=counts if self.counters else None,
            )
            window = meter.take(report, own.at(sequences=mine))
            if window is not None:
                fit.observe(window)
        self.end_s = now
        return visited

    end_s: float = 0.0


def misses(fitted: StepModel, truth: StepModel, visited: list[tuple[float, float]]) -> FloatArray:
    """Relative errors of T(B), one for each step that was made."""
    return np.array(
        [
            abs(fitted.decode_step_s(batch, kv) / truth.decode_step_s(batch, kv) - 1.0)
            for batch, kv in visited
        ]
    )


def one_step(
    began_s: float, took_s: float, prompt: int, batch: int, kv_tokens: float
) -> PrefillPeriod:
    """A prompt that one step computed beside `batch` sequences."""
    return PrefillPeriod(
        began_s=began_s,
        ended_s=began_s + took_s,
        prompts=1,
        tokens=prompt,
        pairs=float(prompt) ** 2,
        steps=-(-prompt // 8192),
        joined=False,
        sequences=batch,
        kv_tokens=kv_tokens,
        weight=1.0,
    )
