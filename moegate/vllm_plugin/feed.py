"""The feed: a bounded record of steps and finished requests, and the answers that tell them.

Each entry has the next sequence number. A reader names the last one that it has seen, and gets the
entries that follow; `lost` counts those that were dropped in between. An answer names its columns,
so that a reader finds them by name, and later versions may add some.

    {"format": 1, "instance": "6f0c…", "version": "0.32.0", "processes": 1, "now_s": 812.4,
     "next": 7, "lost": 0, "more": false,
     "step_fields": ["engine", "at_s", …], "steps": [[0, 812.3, …], …],
     "request_fields": ["engine", "at_s", "id", …], "requests": [[0, 812.3, "cmpl-a-0", …], …]}

Where experts are counted (`experts.py`), an answer also has

     "moe": {"experts": 128, "experts_per_token": 8, "layers": 48},
     "expert_fields": ["engine", "at_s", …], "expert_steps": [[0, 812.3, …], …],
     "signature_fields": ["engine", "id", …], "signatures": [[0, "cmpl-a-0", …], …]

Times are seconds of one clock, on which the answer was made at `now_s`. `instance` is new for each
process: an API server that was started again, or another of several.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from itertools import islice
from typing import NamedTuple

import msgspec

PATH = "/moegate/steps"
FORMAT = 1
MOST_KEPT = 8192
"""Entries that are kept: some ten seconds of eight ranks at a hundred steps a second."""
MOST_TOLD = 512
"""Entries of one answer, so that neither the server's event loop nor the reader's is held up."""
MOST_CURSORS = 64
"""Cursors of one request that are read; further ones are ignored."""


class Step(NamedTuple):
    """One step of one engine, times in seconds. None: unknown.

    `prompt_tokens`: whole length of the prompts of a step that computes them from their start to
    their end, cached tokens included. `decode_tokens`: computed for sequences that decode, drafts
    included; `output_tokens`: what these sequences gained. `elapsed_s`: wait for the step's result.
    `period_s`: time since the previous step, by a sequence that decodes in both. `dummy`: the rank
    only kept others company.
    """

    engine: int
    at_s: float
    prefill_requests: int
    prefill_tokens: int
    prompt_tokens: int | None
    decode_requests: int
    decode_tokens: int
    output_tokens: int | None
    elapsed_s: float
    period_s: float | None
    dummy: bool
    running: int
    waiting: int
    kv_usage: float
    preemptions: int


class FinishedRequest(NamedTuple):
    """One sequence that has ended, times in seconds. None: it did not come so far.

    `id`: as the API server named the request, such as "chatcmpl-" and its X-Request-Id.
    """

    engine: int
    at_s: float
    id: str
    finish: str
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    preemptions: int
    queued_s: float | None
    prefill_s: float | None
    decode_s: float | None
    tpot_s: float | None


class ExpertStep(NamedTuple):
    """Which experts one step of one engine used.

    `tokens`: that it computed, drafts included, and `prefill_tokens`: of prompts among them.
    `distinct`: different experts of a layer that these tokens chose, mean over the MoE layers (of
    the first pipeline stage). `load`: choices that fell on the experts of each expert-parallel
    rank, a mean over the same layers, where a token makes as many choices as it takes experts;
    None: no expert parallelism, or experts that move. Large steps are not told.
    """

    engine: int
    at_s: float
    tokens: int
    prefill_tokens: int
    distinct: float
    load: list[float] | None


class Signature(NamedTuple):
    """The experts that a finished request used most, of a few layers that stand for all.

    `id`: as in `FinishedRequest`; `tokens`: its tokens that were counted; `experts`: for each of
    these layers, from the first to the last, at most 16 experts, those used most first.
    """

    engine: int
    id: str
    tokens: int
    experts: list[list[int]]


Entry = Step | FinishedRequest | ExpertStep | Signature


class Feed:
    """Keeps the newest entries of one process. Not thread-safe: vLLM's event loop calls it."""

    def __init__(self, most_kept: int = MOST_KEPT) -> None:
        self.instance = secrets.token_hex(8)
        self.version = ""
        """Of vLLM."""
        self.processes = 1
        """API servers of the deployment, each with a feed of its own."""
        self.moe: dict[str, int] | None = None
        """The model's experts; None: they are not counted."""
        self._entries: deque[tuple[type[Entry], msgspec.Raw]] = deque(maxlen=most_kept)
        """Its sort, and its row."""
        self._next = 0

    def add(self, entry: Entry) -> None:
        """Appends an entry; the oldest one makes room."""
        self._entries.append((type(entry), _row(entry)))
        self._next += 1

    def answer(self, cursors: list[str]) -> bytes:
        """The entries after a cursor, as JSON. `cursors`: INSTANCE.NEXT of earlier answers; without
        one of this instance the answer begins at the oldest entry, and nothing counts as lost."""
        first = self._next - len(self._entries)
        begin, lost = first, 0
        for cursor in cursors[:MOST_CURSORS]:
            instance, _, number = cursor.partition(".")
            if instance == self.instance and number.isascii() and number.isdigit():
                seen = min(int(number[:18]), self._next)
                begin, lost = max(first, seen), max(0, first - seen)
        told = list(islice(self._entries, begin - first, begin - first + MOST_TOLD))
        rows: dict[type[Entry], list[msgspec.Raw]] = {
            sort: [] for sort in (Step, FinishedRequest, ExpertStep, Signature)
        }
        for sort, row in told:
            rows[sort].append(row)
        experts = {
            "moe": self.moe,
            "expert_fields": ExpertStep._fields,
            "expert_steps": rows[ExpertStep],
            "signature_fields": Signature._fields,
            "signatures": rows[Signature],
        }
        return msgspec.json.encode(
            {
                "format": FORMAT,
                "instance": self.instance,
                "version": self.version,
                "processes": self.processes,
                "now_s": time.monotonic(),
                "next": begin + len(told),
                "lost": lost,
                "more": begin + len(told) < self._next,
                "step_fields": Step._fields,
                "steps": rows[Step],
                "request_fields": FinishedRequest._fields,
                "requests": rows[FinishedRequest],
                **(experts if self.moe else {}),
            }
        )


def _row(entry: Entry) -> msgspec.Raw:
    """The entry as JSON, with microseconds and millionths of the KV cache."""
    values = [round(value, 6) if isinstance(value, float) else value for value in entry]
    return msgspec.Raw(msgspec.json.encode(values))


FEED = Feed()
"""The feed of this process: vLLM makes the stat logger and the route apart from each other."""
