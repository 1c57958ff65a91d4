"""vLLM's /metrics as an `EngineReport`: the few series that the scheduler reads.

The names are those of vLLM 0.32. Values of several data-parallel ranks (label `engine`) are added
up, and the cache usage is their mean; where the ranks are placements, each has its own report. A
page without the two gauges of requests of a rank is an error, since it does not show that the
engine is idle: vLLM creates them at the first request at the latest, and the prober sends one
before it reads. Any other series that a rank lacks, or that is no count, is unknown, which is None;
those of speculative decoding exist only with it. A series that comes twice counts once.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gateway.upstream.token_estimate import MAX_TOKENS
from scheduler.contract import EngineReport
from scheduler.engine_steps import EngineCounts, KvTransfers
from scheduler.step_time.step_windows import joined, total

_RUNNING = b"vllm:num_requests_running"
_WAITING = b"vllm:num_requests_waiting"
_KV_USAGE = b"vllm:kv_cache_usage_perc"
_PROMPT = b"vllm:prompt_tokens_total"
_GENERATION = b"vllm:generation_tokens_total"
_CACHE_CONFIG = b"vllm:cache_config_info"
_GAPS = b"vllm:inter_token_latency_seconds_count"
_GAPS_S = b"vllm:inter_token_latency_seconds_sum"
_PREFILL_S = b"vllm:request_prefill_time_seconds_sum"
_COUNTS = {
    "gaps": _GAPS,
    "first_tokens": b"vllm:time_to_first_token_seconds_count",
    "steps": b"vllm:iteration_tokens_total_count",
    "cached_prompt_tokens": b"vllm:prompt_tokens_cached_total",
    "preemptions": b"vllm:num_preemptions_total",
}
"""Fields of `EngineCounts` that are whole numbers; None without the series."""
_SPECULATION = {
    "drafts": b"vllm:spec_decode_num_drafts_total",
    "draft_tokens": b"vllm:spec_decode_num_draft_tokens_total",
    "accepted_tokens": b"vllm:spec_decode_num_accepted_tokens_total",
}
"""The same of speculative decoding; 0 without the series."""
_TRANSFERS = b"vllm:nixl_xfer_time_seconds_count"
_TRANSFERS_S = b"vllm:nixl_xfer_time_seconds_sum"
_PROMPT_BY_SOURCE = b"vllm:prompt_tokens_by_source_total"
_TRANSFERRED = b'source="external_kv_transfer"'
"""Label of prompt tokens that came from another engine."""
_STAGE_SERIES = frozenset((_TRANSFERS, _TRANSFERS_S, _PROMPT_BY_SOURCE))
"""Of disaggregated replicas. Only vLLM's NIXL connector counts its transfers."""
_WANTED = frozenset(
    (
        *(_RUNNING, _WAITING, _KV_USAGE, _PROMPT, _GENERATION, _CACHE_CONFIG),
        *(_GAPS_S, _PREFILL_S, *_COUNTS.values(), *_SPECULATION.values()),
    )
)
_LABEL = re.compile(rb'[{,](block_size|num_gpu_blocks|kv_cache_size_tokens)="([0-9]{1,15})"')
_SERIES = re.compile(rb'([^\s{]+(?:\{(?:[^"}]|"(?:[^"\\]|\\.)*")*\})?)[ \t]+([^\s]+)')
"""A line: the series with its labels, and its value; a time or an example may follow."""
_RANK = re.compile(rb'[{,]engine="([0-9]{1,9})"')
_MOST = 1e15
"""Larger values are absurd, and their sums would not stay finite."""


class BadMetrics(ValueError):
    """The page of metrics cannot be read; the text names the line or what is missing."""


def parse_metrics(
    text: bytes, placement: str, at_s: float, context_tokens: int | None
) -> EngineReport:
    """The report of one engine. Lines of other series are skipped. Raises BadMetrics."""
    wanted = [line for line in _lines(text) if line[: _name_end(line)] in _WANTED]
    return _report(wanted, placement, at_s, context_tokens)


def _lines(text: bytes) -> list[bytes]:
    """The lines of a whole page of vLLM. Raises BadMetrics."""
    lines = text.splitlines()
    if not any(line.startswith(b"vllm:") for line in lines):
        shown = text[:80].decode(errors="replace")
        raise BadMetrics(
            f"no vLLM series in the page of metrics, which begins with {shown!r}: is this a vLLM"
            " server, without --disable-log-stats?"
        )
    if not text.endswith(b"\n"):
        shown = lines[-1][-200:].decode(errors="replace")
        raise BadMetrics(f"the page of metrics is cut short within its line {shown!r}")
    return lines


def _report(
    lines: Sequence[bytes],
    placement: str,
    at_s: float,
    context_tokens: int | None,
    of_ranks: int | None = None,
) -> EngineReport:
    """`lines`: those of `_WANTED` that belong to the placement; `of_ranks`: ranks of the server, if
    the placement is one of them."""
    values: defaultdict[bytes, list[float]] = defaultdict(list)
    configs: list[bytes] = []
    for series, value in _values(lines).items():
        name = series.partition(b"{")[0]
        if name == _CACHE_CONFIG:
            configs.append(series)
        else:
            values[name].append(value)
    running, waiting = values[_RUNNING], values[_WAITING]
    ranks = max(len(running), len(waiting))
    gauges = ((_RUNNING, running), (_WAITING, waiting))
    if missing := [name.decode() for name, its in gauges if not its or len(its) < ranks]:
        raise BadMetrics(f"the page of metrics lacks {' and '.join(missing)} of {placement}")

    def known(name: bytes) -> list[float]:
        """Values of a series; empty: not all ranks tell one."""
        its = values[name]
        return its if len(its) >= ranks and not any(map(math.isnan, its)) else []

    usages = known(_KV_USAGE)
    if max(usages, default=0.0) > 1:
        usages = []  # no fraction
    counts: dict[str, Any] = {
        "ranks": ranks,
        "gaps_s": _sum(known(_GAPS_S)),
        "prefill_s": _sum(known(_PREFILL_S)),
        **{field: _count(known(name)) for field, name in _COUNTS.items()},
        **{field: round(sum(known(name))) for field, name in _SPECULATION.items()},
    }
    capacity = _kv_capacity_tokens(configs, ranks, of_ranks)
    return EngineReport(
        placement=placement,
        at_s=at_s,
        running=round(sum(running)),
        waiting=round(sum(waiting)),
        kv_usage=sum(usages) / len(usages) if usages else None,
        prompt_tokens_total=_count(known(_PROMPT)),
        generation_tokens_total=_count(known(_GENERATION)),
        kv_capacity_tokens=capacity if capacity and capacity <= MAX_TOKENS else None,
        context_tokens=context_tokens,
        kv_usage_fullest=max(usages, default=None),
        kv_capacity_derived=any(map(_is_derived, configs)),
        counts=EngineCounts(**counts),
    )


def _sum(values: Sequence[float]) -> float | None:
    """The sum over the ranks; None: it is unknown."""
    return sum(values) if values else None


def _count(values: Sequence[float]) -> int | None:
    """The same of what is counted."""
    return round(sum(values)) if values else None


def parse_rank_metrics(
    text: bytes, placements: Sequence[str], at_s: float, context_tokens: int | None
) -> tuple[EngineReport, ...]:
    """A report for each data-parallel rank, `placements` being theirs in order. Raises BadMetrics,
    also where the server has more ranks or fewer."""
    lines: list[list[bytes]] = [[] for _ in placements]
    for line in _lines(text):
        if line[: _name_end(line)] in _WANTED and (found := _RANK.search(line)) is not None:
            rank = int(found[1])
            if rank >= len(lines):
                raise BadMetrics(
                    f"the server has a data-parallel rank {rank}: data_parallel_ranks,"
                    f" {len(lines)}, is too small"
                )
            lines[rank].append(line)
    if silent := [rank for rank, its in enumerate(lines) if not its]:
        numbers = ", ".join(map(str, silent))
        raise BadMetrics(
            f"the page of metrics has no series with engine={numbers}: is data_parallel_ranks,"
            f" {len(lines)}, too large?"
        )
    return tuple(
        _report(its, placement, at_s, context_tokens, len(lines))
        for placement, its in zip(placements, lines, strict=True)
    )


def parse_stage_metrics(
    prefill: Sequence[bytes],
    decode: Sequence[bytes],
    placement: str,
    at_s: float,
    context_tokens: int | None,
) -> EngineReport:
    """The report of a disaggregated replica, from the pages of its engines: load of both stages,
    prompts as the first one computed them, steps and KV cache of the second. A request is in one
    stage at a time. Raises BadMetrics."""
    stages = [
        joined([parse_metrics(text, placement, at_s, context_tokens) for text in texts])
        for texts in (prefill, decode)
    ]
    first, second = stages
    return replace(
        second,
        running=total(stage.running for stage in stages),
        waiting=total(stage.waiting for stage in stages),
        prompt_tokens_total=first.prompt_tokens_total,
        kv_capacity_derived=second.kv_capacity_derived,
        prefills=first.counts,
        transfers=_transfers(prefill, decode, second.counts),
    )


def _transfers(
    prefill: Sequence[bytes], decode: Sequence[bytes], decodes: EngineCounts | None
) -> KvTransfers | None:
    """The KV caches that travelled between both stages; None: the engines do not tell. The one that
    fetches a cache counts it, and one that sends it itself does."""
    requests = None if decodes is None else decodes.first_tokens
    values: defaultdict[bytes, list[float]] = defaultdict(list)
    for text in (*prefill, *decode):
        for line in text.splitlines():
            name = line[: _name_end(line)]
            wanted = name in _STAGE_SERIES and (name != _PROMPT_BY_SOURCE or _TRANSFERRED in line)
            if wanted:
                values[name].append(_value(line)[1])
    if any(map(math.isnan, (value for its in values.values() for value in its))):
        return None
    if requests is None or not values[_TRANSFERS] or not values[_PROMPT_BY_SOURCE]:
        return None
    return KvTransfers(
        count=round(sum(values[_TRANSFERS])),
        seconds=sum(values[_TRANSFERS_S]),
        requests=requests,
        tokens=round(sum(values[_PROMPT_BY_SOURCE])),
    )


def _kv_capacity_tokens(configs: Sequence[bytes], ranks: int, of_ranks: int | None) -> int | None:
    """Tokens that the KV caches of all ranks hold, or that of the placement's, which is one of
    `of_ranks`; None: the page does not tell.

    Every rank's line has the rank's own `kv_cache_size_tokens`, but the `num_gpu_blocks` of all
    ranks together (vllm/v1/engine/core_client.py of 0.32 and 0.33).
    """
    if of_ranks is not None:
        return _rank_capacity_tokens(configs[0], of_ranks) if configs else None
    if len(configs) >= ranks:
        return total([_rank_capacity_tokens(config, len(configs)) for config in configs])
    return next((blocks for config in configs if (blocks := _block_tokens(config))), None)


def _rank_capacity_tokens(config: bytes, ranks: int) -> int | None:
    """Tokens that the KV cache of the line's rank holds; None: the line does not tell."""
    if (tokens := _labels(config).get(b"kv_cache_size_tokens")) is not None:
        return tokens or None
    return _block_tokens(config) // ranks or None


def _block_tokens(config: bytes) -> int:
    """Tokens of the blocks that a line tells, which are those of all ranks; 0: it tells none."""
    labels = _labels(config)
    return labels.get(b"block_size", 0) * labels.get(b"num_gpu_blocks", 0)


def _labels(config: bytes) -> dict[bytes, int]:
    return {key: int(value) for key, value in _LABEL.findall(config)}


def _is_derived(config: bytes) -> bool:
    """Whether the line tells blocks of a KV cache and no tokens."""
    return b"kv_cache_size_tokens" not in _labels(config)


def _name_end(line: bytes) -> int:
    brace = line.find(b"{")
    return brace if brace >= 0 else line.find(b" ")


def _values(lines: Sequence[bytes]) -> dict[bytes, float]:
    """Values by series, with its labels; NaN: no count. Raises BadMetrics for a gauge of requests
    without a count."""
    found: dict[bytes, float] = {}
    for line in lines:
        series, value = _value(line)
        if math.isnan(value) and line[: _name_end(line)] in (_RUNNING, _WAITING):
            shown = line[:200].decode(errors="replace")
            raise BadMetrics(f"no count in the metrics line {shown!r}: is this a vLLM server?")
        found[series] = value
    return found


def _value(line: bytes) -> tuple[bytes, float]:
    """The series of a line, with its labels, and its value; NaN: it is no count."""
    match = _SERIES.match(line)
    if match is None:
        return line, math.nan
    series, text = match.groups()
    try:
        value = float(text)
    except ValueError:
        return series, math.nan
    return series, value if 0 <= value <= _MOST else math.nan
