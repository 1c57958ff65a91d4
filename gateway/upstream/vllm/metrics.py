"""vLLM's /metrics as an `EngineReport`: the few series that the scheduler reads.

The names are those of vLLM 0.32. Values of several data-parallel ranks (label `engine`) are added
up, and the cache usage is their mean; where the ranks are placements, each has its own report. An
absent gauge counts as 0, because vLLM creates some at the first request.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence

from scheduler.contract import EngineCounts, EngineReport

_RUNNING = b"vllm:num_requests_running"
_WAITING = b"vllm:num_requests_waiting"
_KV_USAGE = b"vllm:kv_cache_usage_perc"
_PROMPT = b"vllm:prompt_tokens_total"
_GENERATION = b"vllm:generation_tokens_total"
_CACHE_CONFIG = b"vllm:cache_config_info"
_GAPS = b"vllm:inter_token_latency_seconds_count"
_GAPS_S = b"vllm:inter_token_latency_seconds_sum"
_COUNTS = {
    "gaps": _GAPS,
    "first_tokens": b"vllm:time_to_first_token_seconds_count",
    "steps": b"vllm:iteration_tokens_total_count",
    "cached_prompt_tokens": b"vllm:prompt_tokens_cached_total",
    "preemptions": b"vllm:num_preemptions_total",
    "drafts": b"vllm:spec_decode_num_drafts_total",
    "draft_tokens": b"vllm:spec_decode_num_draft_tokens_total",
    "accepted_tokens": b"vllm:spec_decode_num_accepted_tokens_total",
}
"""Fields of `EngineCounts` that are whole numbers."""
_WANTED = frozenset(
    (
        *(_RUNNING, _WAITING, _KV_USAGE, _PROMPT, _GENERATION, _CACHE_CONFIG),
        *(_GAPS_S, *_COUNTS.values()),
    )
)
_LABEL = re.compile(rb'[{,](block_size|num_gpu_blocks|kv_cache_size_tokens)="([0-9]{1,15})"')
_RANK = re.compile(rb'[{,]engine="([0-9]{1,9})"')
_MOST = 1e15
"""Larger values are absurd, and their sums would not stay finite."""


class BadMetrics(ValueError):
    """A line of /metrics has an impossible value; the text names it."""


def parse_metrics(
    text: bytes, placement: str, at_s: float, context_tokens: int | None
) -> EngineReport:
    """The report of one engine. Lines of other series are skipped. Raises BadMetrics."""
    wanted = [line for line in text.splitlines() if line[: _name_end(line)] in _WANTED]
    ranks = sum(line.startswith(_CACHE_CONFIG) for line in wanted)
    return _report(wanted, placement, at_s, context_tokens, ranks)


def _report(
    lines: Sequence[bytes], placement: str, at_s: float, context_tokens: int | None, ranks: int
) -> EngineReport:
    """`lines`: those of `_WANTED` that belong to the placement; `ranks`: ranks of the server."""
    values: defaultdict[bytes, list[float]] = defaultdict(list)
    capacities: list[int | None] = []
    for line in lines:
        name = line[: _name_end(line)]
        if name == _CACHE_CONFIG:
            capacities.append(_kv_capacity_tokens(line, ranks))
        else:
            values[name].append(_value(line))
    told = [capacity for capacity in capacities if capacity]
    usages = values[_KV_USAGE] or [0.0]
    return EngineReport(
        placement=placement,
        at_s=at_s,
        running=round(sum(values[_RUNNING])),
        waiting=round(sum(values[_WAITING])),
        kv_usage=sum(usages) / len(usages),
        prompt_tokens_total=round(sum(values[_PROMPT])),
        generation_tokens_total=round(sum(values[_GENERATION])),
        kv_capacity_tokens=sum(told) if told and len(told) == len(capacities) else None,
        context_tokens=context_tokens,
        kv_usage_fullest=max(usages),
        counts=EngineCounts(
            ranks=max(1, len(values[_GENERATION])),
            gaps_s=sum(values[_GAPS_S]),
            **{field: round(sum(values[name])) for field, name in _COUNTS.items()},
        ),
    )


def parse_rank_metrics(
    text: bytes, placements: Sequence[str], at_s: float, context_tokens: int | None
) -> tuple[EngineReport, ...]:
    """A report for each data-parallel rank, `placements` being theirs in order. Raises BadMetrics,
    also where the server has more ranks."""
    lines: list[list[bytes]] = [[] for _ in placements]
    for line in text.splitlines():
        if line[: _name_end(line)] in _WANTED and (found := _RANK.search(line)) is not None:
            rank = int(found[1])
            if rank >= len(lines):
                raise BadMetrics(
                    f"the server has a data-parallel rank {rank}: data_parallel_ranks,"
                    f" {len(lines)}, is too small"
                )
            lines[rank].append(line)
    ranks = sum(line.startswith(_CACHE_CONFIG) for its in lines for line in its)
    return tuple(
        _report(its, placement, at_s, context_tokens, ranks)
        for placement, its in zip(placements, lines, strict=True)
    )


def _kv_capacity_tokens(line: bytes, ranks: int) -> int | None:
    """Tokens that the KV cache of the line's rank holds; None: the line does not tell.

    Every rank's line has the rank's own `kv_cache_size_tokens`, but the `num_gpu_blocks` of all
    `ranks` together (vllm/v1/engine/core_client.py of 0.32 and 0.33).
    """
    labels = {key: int(value) for key, value in _LABEL.findall(line)}
    if (tokens := labels.get(b"kv_cache_size_tokens")) is not None:
        return tokens or None
    return labels.get(b"block_size", 0) * labels.get(b"num_gpu_blocks", 0) // ranks or None


def _name_end(line: bytes) -> int:
    brace = line.find(b"{")
    return brace if brace >= 0 else line.find(b" ")


def _value(line: bytes) -> float:
    try:
        value = float(line.rsplit(b" ", 1)[1])
    except (IndexError, ValueError):
        value = math.nan
    if not 0 <= value <= _MOST:
        shown = line[:200].decode(errors="replace")
        raise BadMetrics(f"no count in the metrics line {shown!r}: is this a vLLM server?")
    return value
