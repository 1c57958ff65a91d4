"""The closing report: requests, tokens, money, and the statements that must hold."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from gateway.demo import fleet as fleets
from gateway.demo.account import COMPLETE, Check, Result
from gateway.demo.tally import Ended, Outcome, percentile_s
from scheduler.types import SloClass

FIRST_COLUMN_CELLS = 34
"""The same in every table, so that their columns stand below each other."""


def report(console: Console, result: Result, checks: list[Check]) -> None:
    """Prints it."""
    console.print(_requests(result))
    console.print(_latencies(result))
    console.print(_tokens(result))
    _money(console, result)
    console.print()
    for check in checks:
        answer = "[green]yes[/]" if check.holds else "[bold red]NO[/]"
        console.print(f"{check.statement}: {answer}", highlight=False, soft_wrap=True)
        console.print(f"    {check.figures}", highlight=False, soft_wrap=True, markup=False)


def _requests(result: Result) -> Table:
    rows = _table("requests")
    for column in (*SloClass, "all"):
        rows.add_column(column, justify="right")
    for outcome in Outcome:
        _count_row(rows, outcome.value, result.tally.of(outcome))
        reasons = result.tally.reasons(outcome)
        for why in sorted(reasons):
            if why:
                some = [ended for ended in result.tally.of(outcome) if ended.why == why]
                _count_row(rows, f"  {why[:60]}", some, style="dim")
    rows.add_section()
    _count_row(rows, "sent", result.tally.ended, style="bold")
    return rows


def _count_row(rows: Table, name: str, ended: list[Ended], style: str = "") -> None:
    by_class = [sum(e.slo_class == slo_class.value for e in ended) for slo_class in SloClass]
    rows.add_row(name, *(str(count) for count in by_class), str(len(ended)), style=style)


def _latencies(result: Result) -> Table:
    rows = _table("latency of complete streams")
    for column in ("TTFT p50", "TTFT p95", "TPOT p50", "TPOT p95"):
        rows.add_column(column, justify="right")
    complete = result.tally.of(*COMPLETE)
    for slo_class in SloClass:
        some = [ended for ended in complete if ended.slo_class == slo_class.value]
        ttft = [percentile_s((e.ttft_s for e in some), percent) for percent in (50, 95)]
        tpot = [percentile_s((e.tpot_s for e in some), percent) for percent in (50, 95)]
        rows.add_row(
            slo_class.value,
            *("-" if value is None else f"{value:.2f} s" for value in ttft),
            *("-" if value is None else f"{value * 1000:.0f} ms" for value in tpot),
        )
    return rows


def _tokens(result: Result) -> Table:
    rows = _table("output tokens by engine")
    for column in ("generated", "in usage", "cut short"):
        rows.add_column(column, justify="right")
    received = result.received_tokens
    for name, generated in result.generated_tokens.items():
        killed = name == result.killed
        rows.add_row(
            f"{name} (killed)" if killed else name,
            f"{generated}+" if killed else str(generated),
            str(received[name]),
            "?" if killed else str(generated - received[name]),
        )
    return rows


def _money(console: Console, result: Result) -> None:
    tokens = result.local_tokens
    per_million = f"${result.gpu_usd / tokens * 1e6:.2f}" if tokens else "-"
    for line in (
        f"own GPUs: ${result.usd_per_hour:.2f} per hour for {result.load_s:.1f} s ="
        f" ${result.gpu_usd:.4f}, {per_million} per million output tokens, idle time included",
        f"    (at {fleets.SPEED:.0%} of an H100's speed, so that two cores can carry it)",
        "remote: no price is configured, so its cost is unknown",
    ):
        console.print(line, highlight=False, soft_wrap=True)


def _table(title: str) -> Table:
    rows = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    rows.add_column(title, min_width=FIRST_COLUMN_CELLS)
    return rows
