"""A generation call, as every door passes it to the pipeline."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gateway.auth.authenticator import Caller
from gateway.domain.generation import Generation
from scheduler.contract import SloClass, Start


class GenerateCall(msgspec.Struct, frozen=True, kw_only=True):
    """A generation and its terms of service. The door has checked every field.

    Attributes:
        generation: the generation to run.
        caller: the authenticated caller.
        remaining_s: seconds to the client's deadline; None: no deadline.
        size_bytes: memory that the request occupies while it waits.
        whole_answer: the client receives no output before the answer is complete.
        slo_class, ttft_s, tpot_s: requested service level; None: the default of the key and class.
        priority: priority within the service class. Higher values run first.
        local_only, remote_classes: data policy. Empty `remote_classes`: all that the key may use.
        session_id: session of the request, for budgets and the ledger; empty: none.
        end_user, labels_json: for the ledger (`gateway/domain/tags.py`); empty: none.
        idempotency_key: the client's idempotency key; empty: none.
        max_cost_nano_usd: highest allowed charge in nano-USD; None: unlimited.
        batch_item: it is an item of an offline job.
        prompt_tokens: estimate by `Admission.estimate`; None: not estimated yet.
        trace_headers: W3C trace context for the engines.
        on_start: called with each placement that the request is sent to, before its output; a hedge
            excluded. None: nobody asks.
    """

    generation: Generation
    caller: Caller
    remaining_s: float | None
    size_bytes: int
    whole_answer: bool = False
    slo_class: SloClass | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None
    priority: int = 0
    local_only: bool = False
    remote_classes: frozenset[str] = frozenset()
    session_id: str = ""
    end_user: str = ""
    labels_json: str = ""
    idempotency_key: str = ""
    max_cost_nano_usd: int | None = None
    batch_item: bool = False
    prompt_tokens: int | None = None
    trace_headers: tuple[tuple[str, str], ...] = ()
    on_start: Callable[[Start], None] | None = None
