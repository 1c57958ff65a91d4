"""/metrics of vLLM 0.32: names, labels, types, bounds and help texts of the real server.

Metrics that the simulation cannot compute are left out (multi-modal caches, estimated FLOPs, the
Python process). Like in vLLM, a request whose client disconnects is not counted as finished.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from moegate.simulated_vllm.config import ModelTask, SimulatedVllmConfig
from moegate.simulated_vllm.connector.transfers import Transfers
from moegate.simulated_vllm.lora.adapters import LoadedAdapters
from simulation.engine.counters import EngineCounters, Histogram
from simulation.engine.engine import Engine
from simulation.output import FinishReason

HEADERS = {"Content-Type": "text/plain; version=1.0.0; charset=utf-8"}
_SLEEP_STATES = {"awake": 1, "weights_offloaded": 0, "discard_all": 0}
Labels = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Figures of the server that the engine does not have. `began_s`: Unix time of its start."""

    config: SimulatedVllmConfig
    began_s: float
    queue_rejections: int
    adapters: LoadedAdapters | None = None
    """None: the server has no LoRA adapters."""
    transfers: Transfers | None = None
    """None: it has no connector to other engines."""


_PHASE_HELP = "Histogram of time spent in %s phase for request."
_COUNTERS = (
    (
        "prefix_cache_queries",
        "Prefix cache queries, in terms of number of queried tokens.",
        "cache_queries_tokens",
    ),
    (
        "prefix_cache_hits",
        "Prefix cache hits, in terms of number of cached tokens.",
        "cache_hits_tokens",
    ),
    (
        "num_preemptions",
        "Cumulative number of preemption from the engine.",
        "preemptions",
    ),
    ("prompt_tokens", "Number of prefill tokens processed.", "prompt_tokens"),
    (
        "prompt_tokens_cached",
        "Number of cached prompt tokens (local + external).",
        "prompt_tokens_cached",
    ),
    (
        "generation_tokens",
        "Number of generation tokens processed.",
        "generation_tokens",
    ),
)
"""Name, help and field of `EngineCounters` of each plain counter."""
_HISTOGRAMS = (
    (
        "request_prompt_tokens",
        "Number of prefill tokens processed.",
        "request_prompt_tokens",
    ),
    (
        "request_generation_tokens",
        "Number of generation tokens processed.",
        "request_generation_tokens",
    ),
    (
        "iteration_tokens_total",
        "Histogram of number of tokens per engine_step.",
        "step_tokens",
    ),
    (
        "time_to_first_token_seconds",
        "Histogram of time to first token in seconds.",
        "ttft_s",
    ),
    (
        "inter_token_latency_seconds",
        "Histogram of inter-token latency in seconds.",
        "inter_token_s",
    ),
    (
        "request_time_per_output_token_seconds",
        "Histogram of time_per_output_token_seconds per request.",
        "tpot_s",
    ),
    (
        "e2e_request_latency_seconds",
        "Histogram of e2e request latency in seconds.",
        "e2e_s",
    ),
    ("request_queue_time_seconds", _PHASE_HELP % "WAITING", "queue_s"),
    ("request_inference_time_seconds", _PHASE_HELP % "RUNNING", "inference_s"),
    ("request_prefill_time_seconds", _PHASE_HELP % "PREFILL", "prefill_s"),
    ("request_decode_time_seconds", _PHASE_HELP % "DECODE", "decode_s"),
)
"""Name, help and field of `EngineCounters` of each histogram."""


def render(engine: Engine, served: Served) -> bytes:
    """Writes all metrics."""
    config, ranks = served.config, engine.ranks
    text = _Text(config.served_model_name, len(ranks), served.began_s)
    text.gauge(
        "num_requests_running",
        "Number of requests in model execution batches.",
        [len(rank.running) for rank in ranks],
    )
    text.gauge(
        "num_requests_waiting",
        "Number of requests waiting to be processed.",
        [len(rank.waiting) + _deferred(served, index) for index, rank in enumerate(ranks)],
    )
    text.gauges("engine_sleep_state", _SLEEP_HELP, "sleep_state", _SLEEP_STATES)
    text.gauge(
        "kv_cache_usage_perc",
        "KV-cache usage. 1 means 100 percent usage.",
        [rank.pool.used_blocks / config.num_gpu_blocks for rank in ranks],
    )
    for name, description, field in _COUNTERS:
        counts = [getattr(rank.counters, field) for rank in ranks]
        if field == "generation_tokens" and config.task is not ModelTask.GENERATE:
            counts = [0 for _ in ranks]  # the one token of a prompt is the pooled output
        text.counter(name, description, [[({}, count)] for count in counts])
    text.counter(
        "prompt_tokens_by_source",
        "Number of prompt tokens by source.",
        [_sources(rank.counters, served, index) for index, rank in enumerate(ranks)],
    )
    text.counter(
        "request_success",
        "Count of successfully processed requests.",
        [_finished(rank.counters) for rank in ranks],
    )
    text.counter(
        "admission_rejections",
        "Number of admission attempts rejected by a queue limit, by reason.",
        [
            [
                ({"reason": "max_num_queued_reqs"}, served.queue_rejections),
                ({"reason": "max_num_queued_tokens"}, 0),
            ]
        ],
        labelled_by_engine=False,
    )
    for name, description, field in _HISTOGRAMS:
        text.histogram(name, description, [getattr(r.counters, field) for r in ranks])
    text.info(
        "cache_config_info", "Information of the LLMEngine CacheConfig", _cache(config, len(ranks))
    )
    if served.transfers is not None:
        _render_transfers(text, served.transfers, len(ranks))
    if served.adapters is not None:
        active = (s.request.adapter for r in ranks for s in (*r.running, *r.waiting))
        text.samples(
            "lora_requests_info",
            "Running stats on lora requests.",
            served.adapters.samples(filter(None, active), time.time()),
        )
    return text.encode()


def _deferred(served: Served, rank: int) -> int:
    """Requests whose KV cache is under way; the engine's first rank counts them."""
    return served.transfers.under_way if served.transfers is not None and not rank else 0


def _sources(counters: EngineCounters, served: Served, rank: int) -> list[tuple[Labels, int]]:
    fetched = served.transfers.tokens if served.transfers is not None and not rank else 0
    external = min(fetched, counters.prompt_tokens)
    hits = max(0, counters.prompt_tokens_cached - external)
    return [
        ({"source": "local_compute"}, counters.prompt_tokens - external - hits),
        ({"source": "local_cache_hit"}, hits),
        ({"source": "external_kv_transfer"}, external),
    ]


def _render_transfers(text: _Text, transfers: Transfers, ranks: int) -> None:
    """What vLLM's NIXL connector tells. No transfer fails here."""
    for name, description, of_first in (
        ("xfer_time_seconds", _NIXL_HELP % "duration for NIXL", transfers.seconds),
        ("post_time_seconds", _NIXL_HELP % "post time for NIXL", transfers.post_seconds),
        (
            "bytes_transferred",
            "Histogram of bytes transferred per NIXL KV Cache transfers.",
            transfers.bytes,
        ),
        (
            "num_descriptors",
            "Histogram of number of descriptors per NIXL  KV Cache transfers.",
            transfers.descriptors,
        ),
    ):
        others = [Histogram(of_first.bounds) for _ in range(ranks - 1)]
        text.histogram(f"nixl_{name}", description, [of_first, *others])
    for name, description in _NIXL_FAILURES:
        text.counter(f"nixl_{name}", description, [[({}, 0)] for _ in range(ranks)])


_NIXL_HELP = "Histogram of transfer %s KV Cache transfers."
_NIXL_FAILURES = (
    (
        "num_failed_transfers",
        "Number of failed NIXL KV Cache transfers, including handshake and notification failures."
        " NOTE: KV expiry is tracked separately in vllm:nixl_num_kv_expired_reqs.",
    ),
    (
        "num_failed_notifications",
        "Number of failed NIXL KV Cache notifications. Retained for compatibility; these failures"
        " are also included in vllm:nixl_num_failed_transfers.",
    ),
    (
        "num_kv_expired_reqs",
        "Number of requests that had their KV expire. NOTE: This metric is tracked on the P"
        " instance.",
    ),
    (
        "num_notifications_after_expiry",
        "Number of completion notifications for requests that were no longer tracked, usually"
        " because their KV lease expired. The KV blocks may have been reused before the transfer"
        " finished. Counted per notification (one per remote rank), not per request.",
    ),
)


def _finished(counters: EngineCounters) -> list[tuple[Labels, int]]:
    counts = {
        "stop": counters.finished[FinishReason.STOP],
        "length": counters.finished[FinishReason.LENGTH],
        "abort": 0,
        "error": 0,
        "repetition": 0,
    }
    return [({"finished_reason": reason}, count) for reason, count in counts.items()]


_SLEEP_HELP = (
    "Engine sleep state; awake = 0 means engine is sleeping; awake = 1 means engine is awake;"
    " weights_offloaded = 1 means sleep level 1; discard_all = 1 means sleep level 2."
)


def _cache(config: SimulatedVllmConfig, ranks: int) -> Labels:
    """What each rank's line says: its own tokens, but the blocks of all ranks together, as vLLM
    0.32 and 0.33 do."""
    tokens = config.num_gpu_blocks * config.block_size
    blocks = config.num_gpu_blocks * ranks
    return {
        "block_size": str(config.block_size),
        "cache_dtype": "auto",
        "enable_prefix_caching": "True",
        "gpu_memory_utilization": "0.92",
        "kv_cache_max_concurrency": str(tokens / config.max_model_len),
        "kv_cache_size_tokens": str(tokens),
        "num_gpu_blocks": str(blocks),
        "num_gpu_blocks_override": str(config.num_gpu_blocks),
        "prefix_caching_hash_algo": "sha256",
    }


class _Text:
    """Lines in the Prometheus text format, as prometheus_client writes them.

    All values are lists with one item for each data-parallel rank.
    """

    def __init__(self, model: str, ranks: int, began_s: float) -> None:
        self._model: Labels = {"model_name": model}
        self._ranks = [{"engine": str(rank), **self._model} for rank in range(ranks)]
        self._began_s = began_s
        self._lines: list[str] = []

    def encode(self) -> bytes:
        return ("\n".join(self._lines) + "\n").encode()

    def gauge(self, name: str, description: str, values: Sequence[float]) -> None:
        self._head(name, description, "gauge")
        for rank, value in zip(self._ranks, values, strict=True):
            self._sample(name, rank, value)

    def gauges(self, name: str, description: str, label: str, values: dict[str, int]) -> None:
        self._head(name, description, "gauge")
        for rank in self._ranks:
            for key, value in values.items():
                self._sample(name, {**rank, label: key}, value)

    def info(self, name: str, description: str, labels: Labels) -> None:
        self._head(name, description, "gauge")
        for rank in self._ranks:
            self._sample(name, {**labels, "engine": rank["engine"]}, 1)

    def samples(self, name: str, description: str, samples: Iterable[tuple[Labels, float]]) -> None:
        """Samples with labels of their own, and none of the rank or the model."""
        self._head(name, description, "gauge")
        for labels, value in samples:
            self._sample(name, labels, value)

    def counter(
        self,
        name: str,
        description: str,
        values: Sequence[Sequence[tuple[Labels, int]]],
        *,
        labelled_by_engine: bool = True,
    ) -> None:
        bases = self._ranks if labelled_by_engine else [self._model]
        whole = [
            ({**base, **labels}, value)
            for base, its in zip(bases, values, strict=True)
            for labels, value in its
        ]
        self._head(f"{name}_total", description, "counter")
        for labels, value in whole:
            self._sample(f"{name}_total", labels, value)
        self._created(name, description, (labels for labels, _ in whole))

    def histogram(self, name: str, description: str, histograms: Sequence[Histogram]) -> None:
        self._head(name, description, "histogram")
        for rank, histogram in zip(self._ranks, histograms, strict=True):
            cumulated = list(accumulate(histogram.counts))
            bounds = [*map(_number, histogram.bounds), "+Inf"]
            for bound, count in zip(bounds, cumulated, strict=True):
                self._sample(f"{name}_bucket", {**rank, "le": bound}, count)
            self._sample(f"{name}_count", rank, cumulated[-1])
            self._sample(f"{name}_sum", rank, histogram.total)
        self._created(name, description, self._ranks)

    def _created(self, name: str, description: str, labels: Iterable[Labels]) -> None:
        if len(self._ranks) > 1:
            return  # vLLM runs one API server per rank, whose merged metrics have no such series
        self._head(f"{name}_created", description, "gauge")
        for each in labels:
            self._sample(f"{name}_created", each, self._began_s)

    def _head(self, name: str, description: str, kind: str) -> None:
        self._lines.append(f"# HELP vllm:{name} {description}")
        self._lines.append(f"# TYPE vllm:{name} {kind}")

    def _sample(self, name: str, labels: Labels, value: float) -> None:
        shown = ",".join(f'{key}="{_escaped(labels[key])}"' for key in sorted(labels))
        self._lines.append(f"vllm:{name}{{{shown}}} {_number(value)}")


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    """Formats a float like Go does: with an exponent from 1e6 on."""
    text = repr(float(value))
    whole, dot, fraction = text.partition(".")
    if not dot or "e" in text or len(whole.lstrip("-")) <= 6:
        return text
    sign = "-" if whole.startswith("-") else ""
    digits = whole.lstrip("-")
    mantissa = f"{digits[0]}.{digits[1:]}{fraction}".rstrip("0.")
    return f"{sign}{mantissa}e+{len(digits) - 1:02d}"
