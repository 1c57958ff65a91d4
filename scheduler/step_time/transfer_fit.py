"""Time in which the KV cache of a prompt travels from the engine that computed it to the one that
decodes, of a disaggregated replica: c + s u for u prompt tokens, fitted online.

The engines count their transfers and the seconds that these took. Two reports give the mean time of
a transfer and the mean prompt. While all prompts are alike nothing tells c from s, so c is held to
0. Older windows fade. Before any transfer the time is taken for none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scheduler.contract import EngineReport
from scheduler.step_time.kv_transfer import NO_TRANSFER, KvTransferTime

FADE_S = 60.0
"""Time in which the weight of a window falls to 1/e."""
NOISE = 0.2
"""Relative scatter of a window's mean transfer."""
CONSTANT_SPREAD_S = 0.02
"""Deviation by which c may be expected to differ from 0."""
LONGEST_S = 10.0
"""Longest time between two reports: in a longer one the prompts change too much."""
LEAST_S = 1e-6
"""Shorter times of a transfer count as this."""
MOST_S = 600.0
"""A longer mean is absurd, and counts for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferWindow:
    """Transfers between two reports: how many, and the means of their seconds and tokens."""

    at_s: float
    transfers: int
    mean_s: float
    mean_tokens: float


def transfer_window(last: EngineReport, report: EngineReport) -> TransferWindow | None:
    """The transfers between two reports of a disaggregated replica; None: none ended, or their
    counts are unknown."""
    before, now = last.transfers, report.transfers
    if before is None or now is None or not 0 < report.at_s - last.at_s <= LONGEST_S:
        return None
    transfers, seconds = now.count - before.count, now.seconds - before.seconds
    requests, tokens = now.requests - before.requests, now.tokens - before.tokens
    if min(transfers, requests, tokens) <= 0 or seconds < 0:
        return None
    # Workers of a tensor-parallel engine fetch their parts at the same time.
    mean_s = seconds / transfers
    if not mean_s <= MOST_S:
        return None
    return TransferWindow(
        at_s=report.at_s,
        transfers=transfers,
        mean_s=max(LEAST_S, mean_s),
        mean_tokens=tokens / requests,
    )


class TransferFit:
    """Fits the transfers of one group. Residuals are relative to the prediction: relative to the
    measured time a slow transfer would count less than a fast one."""

    def __init__(self) -> None:
        self.time = NO_TRANSFER
        self._ones = self._tokens = self._squares = 0.0
        self._times = self._products = 0.0
        self._seen_s: float | None = None

    def observe(self, window: TransferWindow) -> None:
        """Learns from a window."""
        if self._seen_s is not None:
            keep = math.exp(-max(0.0, window.at_s - self._seen_s) / FADE_S)
            self._ones *= keep
            self._tokens *= keep
            self._squares *= keep
            self._times *= keep
            self._products *= keep
        self._seen_s = window.at_s
        tokens, mean_s = window.mean_tokens, window.mean_s
        scale_s = self.time.seconds(tokens) if self._ones else mean_s
        weight = window.transfers / (NOISE * max(LEAST_S, scale_s)) ** 2
        self._ones += weight
        self._tokens += weight * tokens
        self._squares += weight * tokens**2
        self._times += weight * mean_s
        self._products += weight * tokens * mean_s
        self.time = self._solved()

    def _solved(self) -> KvTransferTime:
        ones = self._ones + CONSTANT_SPREAD_S**-2
        determinant = ones * self._squares - self._tokens**2
        constant_s = (self._squares * self._times - self._tokens * self._products) / determinant
        token_s = (ones * self._products - self._tokens * self._times) / determinant
        if constant_s < 0.0:
            return KvTransferTime(0.0, self._products / self._squares)
        if token_s < 0.0:
            return KvTransferTime(self._times / ones, 0.0)
        return KvTransferTime(constant_s, token_s)
