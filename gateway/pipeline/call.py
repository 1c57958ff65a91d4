"""A call for a generation, as every door makes it."""

from __future__ import annotations

import msgspec

from gateway.auth.authenticator import Caller
from gateway.domain.generation import Generation
from scheduler.contract import SloClass


class GenerateCall(msgspec.Struct, frozen=True, kw_only=True):
    """What a client asks for, and under which terms. Checked by the door.

    Attributes:
        generation: what is to be generated.
        caller: who asks.
        remaining_s: time to the client's deadline; None: it set none.
        size_bytes: memory that the request holds while it waits.
        whole_answer: the client gets nothing before the end.
        slo_class, ttft_s, tpot_s: the service it asks for; None: the default of its key and class.
        priority: rank within the class, higher first.
        local_only, remote_classes: its data policy; no classes: those that its key may use.
        session_id: requests of one session go where their prefix is cached; empty: none.
        idempotency_key: empty: none.
        max_cost_nano_usd: most that it may be charged; None: no limit of its own.
        trace_headers: W3C trace context that engines continue.
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
    idempotency_key: str = ""
    max_cost_nano_usd: int | None = None
    trace_headers: tuple[tuple[str, str], ...] = ()
