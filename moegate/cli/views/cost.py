"""The cost of a pool as tables, as JSON, and as a figure over the load."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from gateway.config.money import NANO_USD
from moegate.cli.views.money import usd
from moegate.cli.views.pictures import new_figure
from moegate.v1 import usage_pb2

YOUNG_SHARE = 0.97
"""The title says so if the meter covers less than this share of the requested window."""
_FIGURES = (
    "allocated_nano_usd_per_mtok",
    "saturated_nano_usd_per_mtok",
    "marginal_nano_usd_per_mtok",
)


def view(pool: str, cost: usage_pb2.GetPoolCostResponse, window_s: float) -> Group:
    """Bill and accounts, rates by kind of token, remotes, and remarks.

    `window_s`: the requested window.
    """
    accounts = _table("account", "$", "share")
    for account in cost.accounts:
        share = account.nano_usd / cost.bill_nano_usd if cost.bill_nano_usd else 0.0
        accounts.add_row(account.name, usd(account.nano_usd), f"{share:.1%}")
    accounts.add_section()
    accounts.add_row("bill", usd(cost.bill_nano_usd), "", style="bold")
    accounts.add_row("charged", usd(cost.charged_nano_usd), "")
    rates = _table("$ per million tokens", "tokens", "allocated", "saturated floor", "marginal")
    tokens = {
        "uncached_input": cost.uncached_input_tokens,
        "cached_input": cost.cached_input_tokens,
        "output": cost.output_tokens,
    }
    tokens["total"] = sum(tokens.values())
    for rate in cost.rates:
        cells = [_cell(rate, figure) for figure in _FIGURES]
        rates.add_row(rate.token_kind, f"{tokens[rate.token_kind]:,}", *cells)
    parts: list[Text | Table] = [Text(_head(pool, cost, window_s), style="bold"), accounts, rates]
    if cost.remotes:
        remotes = _table("the same tokens at", "$", "$ per million", "price row")
        for remote in cost.remotes:
            per = remote.nano_usd_per_mtok if remote.HasField("nano_usd_per_mtok") else None
            shown = "" if per is None else usd(per)
            remotes.add_row(remote.remote, usd(remote.nano_usd), shown, remote.price_row_id)
        parts.append(remotes)
    parts += [Text(line) for line in remarks(cost)]
    return Group(*parts)


def remarks(cost: usage_pb2.GetPoolCostResponse) -> list[str]:
    """Sentences about the figures: warnings, break-even, a proposed showback row."""
    lines = []
    if cost.warning:
        lines.append(f"warning: {cost.warning}")
    if cost.unpriced.ToNanoseconds():
        hours = cost.unpriced.ToNanoseconds() / 3.6e12
        lines.append(f"{hours:.2f} replica-hours have no known price: they are in no sum")
    even = break_even_tokens_per_s(cost)
    if even is not None:
        cheapest = min(remote.nano_usd_per_mtok for remote in cost.remotes)
        lines.append(
            f"break-even with the cheapest remote (${usd(cheapest)} per million): "
            f"{even:,.0f} tokens/s of this mix; the window had {_tokens_per_s(cost):,.0f}"
        )
    proposed = {
        rate.token_kind: rate.allocated_nano_usd_per_mtok
        for rate in cost.rates
        if rate.HasField("allocated_nano_usd_per_mtok")
    }
    if {"uncached_input", "output"} <= proposed.keys():
        fields = {"input": "uncached_input", "output": "output", "cached_input": "cached_input"}
        text = ", ".join(
            f'{name}: "{Decimal(proposed[kind]) / NANO_USD:f}"'
            for name, kind in fields.items()
            if kind in proposed
        )
        lines.append(f"showback row that would recover the bill: usd_per_mtok: {{{text}}}")
    return lines


def break_even_tokens_per_s(cost: usage_pb2.GetPoolCostResponse) -> float | None:
    """Load at which the pool costs as much as the cheapest remote for the same mix of tokens.

    None if it is unknown, for example because a part of the bill is.
    """
    prices = [r.nano_usd_per_mtok for r in cost.remotes if r.HasField("nano_usd_per_mtok")]
    covered_s = cost.covered.ToNanoseconds() / 1e9
    if not prices or not min(prices) or not covered_s or cost.unpriced.ToNanoseconds():
        return None
    return cost.bill_nano_usd / covered_s / min(prices) * 1e6


def as_json(pool: str, cost: usage_pb2.GetPoolCostResponse) -> dict[str, Any]:
    """All figures; money in nano-USD."""
    plain: dict[str, Any] = MessageToDict(
        cost, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    even = break_even_tokens_per_s(cost)
    return {"pool": pool, **plain, "break_even_tokens_per_s": even, "remarks": remarks(cost)}


def save_png(pool: str, cost: usage_pb2.GetPoolCostResponse, path: Path, window_s: float) -> None:
    """Draws the cost per million tokens over the load, with the prices of the remotes.

    Raises NoMatplotlib or OSError.
    """
    figure = new_figure(9, 5.5)
    import matplotlib.ticker

    axes = figure.subplots()
    loads = [point.tokens_per_s for point in cost.load]
    costs = [point.nano_usd_per_mtok / NANO_USD for point in cost.load]
    covered_s = cost.covered.ToNanoseconds() / 1e9
    even = break_even_tokens_per_s(cost)
    if covered_s and cost.bill_nano_usd:
        high = max([*loads, (even or 0.0) * 1.5, 1.0])
        low = max(high / 1000, min([*loads, even or high]) / 2)
        grid = [low * (high / low) ** (i / 200) for i in range(201)]
        per_s = cost.bill_nano_usd / covered_s / NANO_USD
        law = [per_s / load * 1e6 for load in grid]
        axes.plot(grid, law, color="0.6", label="bill / load")
    if loads:
        axes.scatter(loads, costs, s=18, label="minutes", zorder=3)
    for remote in cost.remotes:
        if remote.HasField("nano_usd_per_mtok"):
            price = remote.nano_usd_per_mtok / NANO_USD
            axes.axhline(price, linestyle="--", linewidth=1, label=f"{remote.remote}: ${price:.3g}")
    if even is not None:
        axes.axvline(even, color="tab:red", linewidth=1, label=f"break-even: {even:,.0f} tokens/s")
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        # Ticks at 1, 2 and 5 of each decade alone: more of them run into each other.
        axis.set_major_locator(matplotlib.ticker.LogLocator(base=10.0, subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter("{x:,.6g}")
        axis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    axes.grid(visible=True, color="0.9")
    axes.set_xlabel("load, tokens per second (input and output)")
    axes.set_ylabel("US dollars per million tokens")
    axes.set_title(_head(pool, cost, window_s))
    axes.legend()
    figure.savefig(path, dpi=120)


def _head(pool: str, cost: usage_pb2.GetPoolCostResponse, window_s: float) -> str:
    covered_s = cost.covered.ToNanoseconds() / 1e9
    covers = f"last {_span(covered_s)}"
    if covered_s < YOUNG_SHARE * window_s:
        covers = f"{_span(covered_s)} since its meter began, of the {_span(window_s)} asked for"
    text = f"pool {pool}, {covers}: utilisation {cost.utilisation:.0%}"
    if cost.HasField("prefill_utilisation"):
        text += f", prefill {cost.prefill_utilisation:.0%}, decode {cost.decode_utilisation:.0%}"
    return text


def _span(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.3g} h"


def _tokens_per_s(cost: usage_pb2.GetPoolCostResponse) -> float:
    tokens = cost.uncached_input_tokens + cost.cached_input_tokens + cost.output_tokens
    return tokens / (cost.covered.ToNanoseconds() / 1e9)


def _cell(rate: usage_pb2.PoolRate, figure: str) -> str:
    return usd(getattr(rate, figure)) if rate.HasField(figure) else "unknown"


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table
