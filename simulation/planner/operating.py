"""Where one replica settles under a steady load: batch, step time, time to the first token.

With prefills that add P seconds each to the steps, at rate r, decode steps have the share 1 - r P
of the time, so that a sequence waits T(B) / (1 - r P) for its next output, and by Little's law
B = r L TPOT for L output tokens. Both are solved together. Means stand for distributions: bursts
need headroom on top.
"""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.step_time.step_model import StepModel

ROUNDS = 60
"""Halvings of a bisection: below any precision that matters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Mean tokens of a request: prompt, how many of them the prefix cache has, output."""

    prompt_tokens: float
    cached_tokens: float
    output_tokens: float

    @property
    def resident_tokens(self) -> float:
        """KV tokens of a sequence in the middle of its output."""
        return self.prompt_tokens + self.output_tokens / 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Operating:
    """A steady state of one replica.

    Attributes:
        requests_per_s: requests that start, and as many that end.
        batch: number of sequences that decode.
        step_s: time of a decode step without prefills.
        tpot_s: mean time per output token of a sequence, with the stalls by others' prefills.
        prefill_s: prefill time of one request.
        prefill_share: share of the time that prefills take.
        busy_share: share of the time in which anything runs.
    """

    requests_per_s: float
    batch: float
    step_s: float
    tpot_s: float
    prefill_s: float
    prefill_share: float
    busy_share: float

    @property
    def ttft_s(self) -> float:
        """Mean time to the first token: the prefills met on arrival, its own, and a step.

        Prefills are served one after the other: the wait of a queue with constant service.
        """
        share = min(self.prefill_share, 0.999)
        wait_s = share / (2.0 * (1.0 - share)) * self.prefill_s
        return wait_s + self.prefill_s + self.step_s


def at_batch(model: StepModel, lengths: Lengths, batch: float) -> Operating:
    """The state in which `batch` sequences decode at all times."""
    prefill_s = model.prefill_time_s(
        lengths.prompt_tokens - lengths.cached_tokens, lengths.prompt_tokens, batch
    )
    step_s = model.decode_step_s(batch, batch * lengths.resident_tokens)
    outputs = lengths.output_tokens / model.tokens_per_step
    # r = B / (L TPOT) and TPOT (1 - r P) = T: TPOT = T + B P / L.
    gap_s = step_s + batch * prefill_s / outputs
    requests_per_s = batch / (outputs * gap_s)
    return Operating(
        requests_per_s=requests_per_s,
        batch=batch,
        step_s=step_s,
        tpot_s=gap_s / model.tokens_per_step,
        prefill_s=prefill_s,
        prefill_share=requests_per_s * prefill_s,
        busy_share=1.0,
    )


def closed_loop_batch(lengths: Lengths, clients: float, kv_tokens: float | None) -> float:
    """Sequences that run where `clients` each send the next request when one ends.

    `kv_tokens`: KV cache of the server, which the rest of the clients wait for; None: unlimited.
    """
    if kv_tokens is None:
        return clients
    return max(1.0, min(clients, kv_tokens / lengths.resident_tokens))


def closed_loop_tpot_s(
    model: StepModel, lengths: Lengths, clients: float, kv_tokens: float | None = None
) -> float:
    """TPOT where `clients` each send the next request when one ends, as benchmarks do.

    A sequence is stalled by the prefills of the others only: one of each while it decodes.
    """
    batch = closed_loop_batch(lengths, clients, kv_tokens)
    state = at_batch(model, lengths, batch)
    others_s = (batch - 1.0) * state.prefill_s / lengths.output_tokens
    return state.step_s / model.tokens_per_step + others_s


def at_rate(
    model: StepModel, lengths: Lengths, requests_per_s: float, most_batch: float
) -> Operating | None:
    """The state at a rate of arrivals; None where a batch of `most_batch` cannot keep up.

    Below one sequence on average the replica idles for a part of the time, and steps with batch 1
    in the rest.
    """
    if requests_per_s > at_batch(model, lengths, most_batch).requests_per_s:
        return None
    one = at_batch(model, lengths, 1.0)
    if requests_per_s <= one.requests_per_s:
        outputs = lengths.output_tokens / model.tokens_per_step
        prefill_share = requests_per_s * one.prefill_s
        gap_s = one.step_s / (1.0 - prefill_share)
        return Operating(
            requests_per_s=requests_per_s,
            batch=requests_per_s * outputs * gap_s,
            step_s=one.step_s,
            tpot_s=gap_s / model.tokens_per_step,
            prefill_s=one.prefill_s,
            prefill_share=prefill_share,
            busy_share=min(1.0, prefill_share + requests_per_s * outputs * one.step_s),
        )
    low, high = 1.0, most_batch
    for _ in range(ROUNDS):
        middle = (low + high) / 2.0
        if at_batch(model, lengths, middle).requests_per_s < requests_per_s:
            low = middle
        else:
            high = middle
    return at_batch(model, lengths, high)
