"""The closing report: requests, tokens, cost, and the statements that must hold."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from moegate.demo import fleet as fleets
from moegate.demo.checks import COMPLETE, Check, RunResult
from moegate.demo.client_results import Outcome, RequestResult, percentile_s
from moegate.demo.queue_watch import in_words
from scheduler.contract import SloClass

FIRST_COLUMN_CELLS = 34
"""Width of the first column of every table, so that the other columns are aligned."""


def report(console: Console, result: RunResult, checks: list[Check]) -> None:
    """Prints the report."""
    console.print(_requests(result))
    console.print(_latencies(result))
    console.print(_tokens(result))
    if result.most_batch:
        words = in_words(result.most_batch)
        text = f"the queue when most batch requests waited in it: {words}"
        console.print(text, highlight=False, soft_wrap=True)
    _overflow(console, result)
    _money(console, result)
    console.print()
    for check in checks:
        answer = "[green]yes[/]" if check.holds else "[bold red]NO[/]"
        console.print(f"{check.statement}: {answer}", highlight=False, soft_wrap=True)
        console.print(f"    {check.figures}", highlight=False, soft_wrap=True, markup=False)


def _requests(result: RunResult) -> Table:
    rows = _table("requests")
    for column in (*SloClass, "all"):
        rows.add_column(column, justify="right")
    for outcome in Outcome:
        _count_row(rows, outcome.value, result.clients.of(outcome))
        errors = result.clients.errors(outcome)
        for error in sorted(errors):
            if error:
                some = [ended for ended in result.clients.of(outcome) if ended.error == error]
                _count_row(rows, f"  {error[:60]}", some, style="dim")
    rows.add_section()
    _count_row(rows, "sent", result.clients.ended, style="bold")
    return rows


def _count_row(rows: Table, name: str, ended: list[RequestResult], style: str = "") -> None:
    by_class = [sum(e.slo_class == slo_class.value for e in ended) for slo_class in SloClass]
    rows.add_row(name, *(str(count) for count in by_class), str(len(ended)), style=style)


def _latencies(result: RunResult) -> Table:
    rows = _table("latency of complete streams")
    for column in ("TTFT p50", "TTFT p95", "TPOT p50", "TPOT p95"):
        rows.add_column(column, justify="right")
    complete = result.clients.of(*COMPLETE)
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


def _tokens(result: RunResult) -> Table:
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


def _overflow(console: Console, result: RunResult) -> None:
    found = result.overflows
    if not found.phases:
        console.print("overflow: none", highlight=False)
    for phase in found.phases:
        span = f"from {phase.from_s:.0f} s to {phase.to_s:.0f} s"
        console.print(f"overflow {span}: {phase.requests} requests", highlight=False)
    for reason, count in found.reasons.most_common():
        console.print(f"    {count} because: {reason}", highlight=False, markup=False)


def _money(console: Console, result: RunResult) -> None:
    costs, tokens = result.costs, sum(e.output_tokens for e in result.clients.of(*COMPLETE))
    rows = _table("the bill of the complete streams")
    for column in ("own GPUs", "remote", "together", "$/M output"):
        rows.add_column(column, justify="right")
    ours = (costs.ours_gpu_usd, costs.ours_remote_usd, costs.ours_usd)
    rows.add_row("this run: own and overflow", *_usd(*ours, tokens), style="bold")
    rows.add_row("all remote", *_usd(0.0, costs.all_remote_usd, costs.all_remote_usd, tokens))
    peak = (costs.peak_usd, 0.0, costs.peak_usd)
    rows.add_row(f"all own, {costs.peak_replicas} replicas for the peak", *_usd(*peak, tokens))
    console.print(rows)
    price = fleets.REMOTE_PRICE
    for line in (
        f"own: ${result.usd_per_hour:.2f} per hour for {result.load_s:.1f} s, idle time included,"
        f" at {fleets.SPEED:.0%} of an H100's speed, so that two cores can carry it",
        f"remote: ${price.output} per million output tokens (four times what a full own replica"
        f" makes them for), ${price.input} input, ${price.cached_input} cached input",
    ):
        console.print(line, highlight=False, soft_wrap=True)


def _usd(gpu: float, remote: float | None, both: float | None, tokens: int) -> tuple[str, ...]:
    per_million = None if both is None or not tokens else both / tokens * 1e6
    return (
        *("unknown" if value is None else f"${value:.4f}" for value in (gpu, remote, both)),
        "-" if per_million is None else f"${per_million:.2f}",
    )


def _table(title: str) -> Table:
    rows = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    rows.add_column(title, min_width=FIRST_COLUMN_CELLS)
    return rows
