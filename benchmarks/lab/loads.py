"""The four workloads of the laboratory: public traces where the files are there, else generated.

`MOEGATE_TRACES` (or `--traces`) names the folder with AzureLLMInferenceTrace_conv.csv,
AzureLLMInferenceTrace_code.csv and mooncake_conversation_trace.jsonl.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from pathlib import Path

import numpy as np

from benchmarks.lab.fleets import LabFleet
from scheduler.contract import Request, Slo, SloClass
from scheduler.step_time.step_model import StepModel
from simulation.arrivals import Arrival
from simulation.generators import (
    AGENT_SESSIONS,
    AZURE_CODE,
    AZURE_CONVERSATION,
    MOONCAKE_CONVERSATION,
    Sessions,
    SingleTurns,
    client_shares,
    sessions,
    single_turns,
)
from simulation.traces import (
    TraceRow,
    parse_azure,
    parse_mooncake,
    spread_bins,
    window,
)

TENANTS = 12
"""Of traces that do not tell who sent a request: few heavy ones, see `client_shares`."""
STANDARD_SHARE = 0.25
"""Share of requests of the second class; its SLO is the same, it only goes after the first."""
MAX_OUTPUT_TOKENS = 4096
"""What clients ask for at most: far above what they get, as in practice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabTrace:
    """A workload. `from_file`: whether it is the public trace itself."""

    name: str
    rows: Sequence[TraceRow]
    block_tokens: int
    from_file: bool


def _single(kind: SingleTurns, count: int) -> list[TraceRow]:
    return list(islice(single_turns(kind, 5.0, seed=1), count))


def _sessions(kind: Sessions, count: int) -> list[TraceRow]:
    return sessions(kind, 3.4, count, seed=1)


_SOURCES: dict[
    str,
    tuple[str, Callable[[Sequence[str]], list[TraceRow]] | None, Callable[[], list[TraceRow]], int],
] = {
    "azure-conv": (
        "AzureLLMInferenceTrace_conv.csv", parse_azure,
        partial(_single, AZURE_CONVERSATION, 20_000), 16,
    ),
    "azure-code": (
        "AzureLLMInferenceTrace_code.csv", parse_azure, partial(_single, AZURE_CODE, 9_000), 16,
    ),
    "mooncake": (
        "mooncake_conversation_trace.jsonl", parse_mooncake,
        partial(_sessions, MOONCAKE_CONVERSATION, 12_000), 512,
    ),
    "agents": ("", None, partial(_sessions, AGENT_SESSIONS, 12_000), 512),
}  # fmt: skip
TRACES = tuple(_SOURCES)


@cache
def load_trace(name: str, folder: Path | None) -> LabTrace:
    """Reads the file if it is there, else generates."""
    file_name, parse, generate, block_tokens = _SOURCES[name]
    path = folder / file_name if folder and file_name else None
    if path is not None and parse is not None and path.exists():
        with path.open() as lines:
            rows = parse(list(lines))
    else:
        path, rows = None, generate()
    return LabTrace(
        name=name,
        rows=spread_bins(rows, seed=1),
        block_tokens=block_tokens,
        from_file=path is not None,
    )


def arrivals(
    trace: LabTrace,
    fleet: LabFleet,
    truth: StepModel,
    *,
    count: int,
    rate_per_s: float,
    seed: int,
    patience: float = 1.0,
) -> list[Arrival]:
    """`count` requests at a mean of `rate_per_s`; each seed begins elsewhere in the trace.

    `patience`: times its TTFT limit that a request may wait in the queue.
    """
    fitting = [
        row for row in trace.rows if row.prompt_tokens + row.output_tokens <= fleet.longest_tokens
    ]
    count = min(count, len(fitting))
    first = (seed * 7919) % len(fitting)
    rows = window(fitting, first=first, count=count, rate_per_s=rate_per_s)
    rng = np.random.default_rng(seed)
    tenants = rng.choice(TENANTS, count, p=client_shares(TENANTS))
    standard = rng.random(count) < STANDARD_SHARE
    return [
        Arrival(
            request=request_of(
                f"r{i}",
                row,
                fleet,
                truth,
                block_tokens=trace.block_tokens,
                tenant=row.client or f"tenant-{tenants[i]}",
                is_standard=bool(standard[i]),
                patience=patience,
            ),
            output_tokens=row.output_tokens,
            content=row.content,
        )
        for i, row in enumerate(rows)
    ]


def request_of(
    request_id: str,
    row: TraceRow,
    fleet: LabFleet,
    truth: StepModel,
    *,
    block_tokens: int,
    tenant: str,
    is_standard: bool,
    patience: float = 1.0,
) -> Request:
    """What a policy sees of a row, with its SLO."""
    ttft_s = fleet.ttft_slo_s(truth, row.prompt_tokens)
    slo = Slo(
        slo_class=SloClass.STANDARD if is_standard else SloClass.INTERACTIVE,
        ttft_s=ttft_s,
        tpot_s=fleet.tpot_s,
        max_queue_s=patience * ttft_s,
    )
    return Request(
        request_id=request_id,
        tenant=tenant,
        model=fleet.model,
        arrival_s=row.at_s,
        deadline_s=row.at_s + 600.0,
        slo=slo,
        priority=0,
        prompt_tokens=row.prompt_tokens,
        max_output_tokens=MAX_OUTPUT_TOKENS,
        choices=1,
        size_bytes=4 * row.prompt_tokens,
        remote_classes=frozenset(),
        prompt_tokens_exact=True,
        session_id=row.session,
        prefix_blocks=tuple(row.content[: row.prompt_tokens // block_tokens]),
        prefix_block_tokens=block_tokens,
    )
