"""What the scheduler weighs, as one frozen value: the laboratory switches parts off by it.

Switches and figures say what they are worth in docs/scheduling.md; the figures were set by the
policy laboratory (benchmarks/policies.py), not by feeling.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How to decide. The defaults are what production runs.

    Attributes:
        late_binding: hold a request in the gateway's queue until a placement can take it without
            harm; off: send it at once to the best placement, the engine queues.
        moe_term: price the experts that a batch touches, D(B); off: a step's time is taken for
            linear in its batch.
        harm_check: protect the streams that run from the stall of a newcomer's prefill.
        shedding: while a pool is saturated, leave those waiting whose SLO is lost already.
        shaping: do not open an idle group while a warm one may take the request in time.
        prefix: count the prefill that a cached prefix saves.
        tpot_share: share of the promised time per token that a step may take.
        max_victims: expected streams that a dispatch may push past their SLO.
        spare_victims: the same under objective `cost` while a group stands idle, so that packing
            costs no more of the SLO than it must.
        last_call_victims: the same when the newcomer's own time is nearly up.
        last_call_share: share of the time to first token left that counts as nearly up.
        ageing: prefill seconds that a second of waiting is worth in the order of a queue.
        lower_class_share: share of the service that is kept for each lower class that waits.
        looks: bound of the tries without a start at one event.
        open_after_share: share of the time to first token that may pass before an idle group is
            opened while another runs (objective `cost`).
        kv_reserve: share of the KV cache that is never planned; preemptions raise it.
    """

    late_binding: bool = True
    moe_term: bool = True
    harm_check: bool = True
    shedding: bool = True
    shaping: bool = True
    prefix: bool = True
    max_victims: float = 0.05
    tpot_share: float = 1.0
    spare_victims: float = 0.025
    last_call_victims: float = 0.3
    last_call_share: float = 0.1
    ageing: float = 0.1
    lower_class_share: float = 0.05
    looks: int = 8
    open_after_share: float = 0.25
    kv_reserve: float = 0.02
