"""The step time that each request caused: the reference for the accuracy of a meter.

The seconds of a step are allocated when the step is scheduled: a prefill pays its own chunk, the
sequences that decode share the fixed part (weights, experts, launch) equally and pay the reading
of the KV cache by their own tokens. Where ranks step in lock-step, the slowest one's prefill and
KV set the time, and all pay for it in proportion. So the sum over sequences is the busy time.

A sequence that decodes pays through three running sums, so that a step costs O(1):
`shared_s` of each, and kappa' (base + step) of KV, split into the two factors of its `base`.
"""

from __future__ import annotations

from simulation.engine.sequences import Sequence


class CostTruth:
    """Running sums of one group, all in seconds (`kv_s` per token)."""

    __slots__ = ("busy_s", "kv_s", "kv_step_s", "shared_s")

    def __init__(self) -> None:
        self.shared_s = 0.0
        self.kv_s = 0.0
        self.kv_step_s = 0.0
        self.busy_s = 0.0

    def charge_decode(
        self, *, step: int, steps: int, batch: int, fixed_s: float, kv_tokens: int, kv_s: float
    ) -> None:
        """Charges `steps` steps from number `step` on.

        `fixed_s`: of all these steps; `kv_tokens`: of the batch at the first of them; `kv_s`: of
        reading the KV cache in all of them.
        """
        self.busy_s += fixed_s + kv_s
        self.shared_s += fixed_s / batch
        ramp = steps * (steps - 1) / 2
        token_steps = steps * kv_tokens + batch * ramp
        per_token_s = kv_s / token_steps
        self.kv_s += per_token_s * steps
        self.kv_step_s += per_token_s * (steps * step + ramp)

    def charge_prefill(self, sequence: Sequence, seconds: float) -> None:
        """Charges the time of a prefill chunk."""
        self.busy_s += seconds
        sequence.cost_s += seconds

    def begin(self, sequence: Sequence) -> None:
        """Records that the sequence decodes from now on."""
        sequence.marks = (self.shared_s, self.kv_s, self.kv_step_s)

    def settle(self, sequence: Sequence) -> None:
        """Adds the sequence's cost since `begin` to its `cost_s`."""
        shared_s, kv_s, kv_step_s = sequence.marks
        sequence.cost_s += (
            self.shared_s
            - shared_s
            + sequence.base * (self.kv_s - kv_s)
            + self.kv_step_s
            - kv_step_s
        )
        self.begin(sequence)
