"""The figures of scheduling decisions, as one frozen value.

docs/scheduling.md says what each is worth; the policy laboratory (benchmarks/policies.py) set them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How to decide. The defaults are what production runs.

    Attributes:
        max_violations: SLO violations among the running streams that one start may be expected to
            cause.
        spare_violations: the same under objective `cost` while a group stands idle, so that packing
            costs no more of the SLO than it must.
        last_call_violations: the same when the request's own time is nearly up.
        last_call_share: share of the promised time to first token that counts as nearly up.
        most_pending_chunks: prefill that may be pending on a group that takes another request, in
            chunks of one step.
        least_margin: share of a promised time to first token that is kept for errors of its
            prediction, at least.
        tpot_share: share of the promised time per token that a step may take.
        batch_pace_share: share of the tightest promised time per token of higher classes that a
            step may take with a batch-class request.
        batch_opens_s: time before its deadline in which a batch-class request may open an idle
            group (objective `cost`).
        pressed_share: last share of the time that a request may wait, in which it goes before all
            that can wait longer, whatever their class.
        ageing: prefill seconds that a second of waiting is worth in the order of a queue.
        lower_class_share: share of the service that is kept for each lower class that waits.
        looks: bound of the tries without a start at one event.
        open_after_share: share of the promised time to first token that passes before an idle group
            is opened while another runs (objective `cost`); 0: opened at once.
        kv_reserve: share of the KV cache that is never planned; preemptions raise it.
        kv_sigmas: standard deviations above the expected KV tokens that a planned peak is.
        late_binding: a request waits in the gateway's queue until a placement can take it; False
            only in the laboratory: it is sent at once to the best placement, and the engine queues.
        moe_term: decisions use the experts that a batch touches, D(B); False only in the
            laboratory: a step's time is linear in its batch.
        shedding: while a model is saturated, requests whose time to first token is lost wait behind
            all others; False only in the laboratory.
    """

    max_violations: float = 0.05
    spare_violations: float = 0.025
    last_call_violations: float = 0.3
    last_call_share: float = 0.1
    most_pending_chunks: float = 1.0
    least_margin: float = 0.05
    tpot_share: float = 1.0
    batch_pace_share: float = 0.66
    batch_opens_s: float = 900.0
    pressed_share: float = 0.5
    ageing: float = 0.1
    lower_class_share: float = 0.05
    looks: int = 8
    open_after_share: float = 0.25
    kv_reserve: float = 0.01
    kv_sigmas: float = 1.6
    late_binding: bool = True
    moe_term: bool = True
    shedding: bool = True
