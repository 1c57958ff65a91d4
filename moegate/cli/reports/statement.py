"""The bill of a window as tables, as JSON, as rows of a file, and as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from rich.console import Group
from rich.text import Text

from gateway.config.money import NANO_USD
from moegate.cli.views.fitted_table import Column, FittedTable, number
from moegate.cli.views.money import usd
from moegate.cli.views.pictures import new_figure
from moegate.v1 import usage_pb2

_BILL = (
    ("own servers", "gpu_bill_nano_usd"),
    ("remotes", "remote_bill_nano_usd"),
)
_NOBODYS = (
    ("idle", "idle_nano_usd"),
    ("unavailable", "unavailable_nano_usd"),
    ("external", "external_nano_usd"),
    ("unobserved", "unobserved_nano_usd"),
    ("unsettled", "unsettled_nano_usd"),
)
HEADER = (
    *("period", "own_nano_usd", "remote_nano_usd", "shared_nano_usd", "cost_nano_usd"),
    "charged_nano_usd",
)
MAX_BARS = 40


def view(groups: Sequence[str], answer: usage_pb2.GetStatementResponse) -> Group:
    """Each statement: its lines, and below them where the bill went."""
    parts: list[Text | FittedTable] = []
    for statement in answer.statements:
        if statement.period:
            parts.append(Text(statement.period, style="bold"))
        parts.append(_lines(groups, statement))
        if statement.HasField("gpu_bill_nano_usd"):
            parts.append(_bill(statement))
        unpriced_h = statement.unpriced.ToNanoseconds() / 3.6e12
        if unpriced_h:
            parts.append(Text(f"{unpriced_h:,.2f} replica-hours have no known price: in no sum"))
    if not answer.statements:
        parts.append(Text("no accounts in this time"))
    return Group(*parts)


def _lines(groups: Sequence[str], statement: usage_pb2.Statement) -> FittedTable:
    table = FittedTable(
        [
            *(Column(header=name) for name in groups),
            number("own $", leaves=3),
            number("remote $", leaves=2),
            number("idle, rest $", leaves=1),
            number("cost $"),
            number("charged $"),
        ]
    )
    for line in statement.lines:
        table.add_row(*line.group, *_cells(line))
    if len(statement.lines) > 1:
        total = usage_pb2.StatementLine(
            **{
                name: sum(getattr(line, name) for line in statement.lines)
                for name in ("own_nano_usd", "remote_nano_usd", "shared_nano_usd")
            },
            charged_nano_usd=sum(line.charged_nano_usd for line in statement.lines),
        )
        blank = ["total", *[""] * (len(groups) - 1)]
        table.add_row(*blank[: len(groups)], *_cells(total), style="bold")
    return table


def cost(line: usage_pb2.StatementLine) -> int:
    """All that a line costs, nano-USD."""
    return line.own_nano_usd + line.remote_nano_usd + line.shared_nano_usd


def _cells(line: usage_pb2.StatementLine) -> tuple[str, ...]:
    amounts = line.own_nano_usd, line.remote_nano_usd, line.shared_nano_usd, cost(line)
    return tuple(usd(amount) for amount in (*amounts, line.charged_nano_usd))


def _bill(statement: usage_pb2.Statement) -> FittedTable:
    """Both bills, and what they went to; the parts sum to them."""
    table = FittedTable([Column(header="bill"), number("$"), number("share")])
    whole = statement.gpu_bill_nano_usd + statement.remote_bill_nano_usd

    def add(name: str, amount: int, style: str = "") -> None:
        table.add_row(name, usd(amount), f"{amount / whole:.1%}" if whole else "", style=style)

    used = sum(line.own_nano_usd + line.remote_nano_usd for line in statement.lines)
    for name, field in _BILL:
        add(name, getattr(statement, field))
    add("both bills", whole, "bold")
    add("used, as above", used)
    for name, field in _NOBODYS:
        add(name, getattr(statement, field))
    add("of all this wasted", statement.wasted_nano_usd, "dim")
    return table


def as_json(groups: Sequence[str], answer: usage_pb2.GetStatementResponse) -> dict[str, Any]:
    """All figures; money in nano-USD. What the caller may not see is absent."""
    plain: dict[str, Any] = MessageToDict(
        answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return {"groups": list(groups), **plain}


def rows(answer: usage_pb2.GetStatementResponse) -> list[list[Any]]:
    """A row for each line: its groups, then `HEADER`."""
    return [
        [
            *line.group,
            statement.period,
            line.own_nano_usd,
            line.remote_nano_usd,
            line.shared_nano_usd,
            cost(line),
            line.charged_nano_usd,
        ]
        for statement in answer.statements
        for line in statement.lines
    ]


def save_png(groups: Sequence[str], answer: usage_pb2.GetStatementResponse, path: Path) -> None:
    """Draws what each line costs: used on own servers, at remotes, and its share of the rest.
    Raises NoMatplotlib or OSError."""
    names, parts = [], []
    for statement in answer.statements:
        for line in statement.lines:
            name = " / ".join(filter(None, (statement.period, *line.group)))
            names.append(name or "all")
            parts.append((line.own_nano_usd, line.remote_nano_usd, line.shared_nano_usd))
    names, parts = names[:MAX_BARS], parts[:MAX_BARS]
    figure = new_figure(10, 1.5 + 0.35 * max(3, len(names)))
    axes = figure.subplots()
    left = [0.0] * len(names)
    for label, amounts in zip(
        ("own servers", "remotes", "idle and the rest"), zip(*parts, strict=True), strict=False
    ):
        widths = [amount / NANO_USD for amount in amounts]
        axes.barh(range(len(names)), widths, left=left, height=0.7, label=label)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("US dollars")
    axes.set_title(f"Cost by {', '.join(groups)}")
    axes.legend()
    figure.savefig(path, dpi=120)
