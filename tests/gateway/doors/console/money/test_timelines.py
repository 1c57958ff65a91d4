"""Reports as charts: what has no row cost nothing, what is unknown is a gap."""

from __future__ import annotations

from gateway.doors.console.charts.chart import Form
from gateway.doors.console.money.csv_files import csv_text
from gateway.doors.console.money.statement import closed
from gateway.doors.console.money.timelines import (
    bill_chart,
    rates_chart,
    running_sums,
    spend_chart,
)
from moegate.v1 import usage_pb2

DAYS = ("2026-10-01", "2026-10-02", "2026-10-03")


def spend(day: str, model: str, charged: int, **fields: int) -> usage_pb2.SpendRow:
    return usage_pb2.SpendRow(group=[day, model], charged_nano_usd=charged, attempts=1, **fields)


def test_spend_is_stacked_by_the_other_groups_the_largest_first() -> None:
    rows = [
        spend(DAYS[0], "small", 1),
        spend(DAYS[0], "big", 5),
        spend(DAYS[2], "big", 7),
        spend(DAYS[2], "", 2),
    ]
    chart = spend_chart(rows, ("day", "model"), "charged_nano_usd", DAYS, "Spend")
    assert chart is not None
    assert chart.form is Form.BARS
    assert {each.name: each.values for each in chart.series} == {
        "big": (5, 0, 7),
        "none": (0, 0, 2),
        "small": (1, 0, 0),
    }
    assert chart.series[0].name == "big"
    assert spend_chart(rows, ("tenant", "model"), "charged_nano_usd", DAYS, "") is None


def test_unknown_cost_is_a_gap_and_no_spend_is_zero() -> None:
    rows = [spend(DAYS[0], "moe", 1, metered_nano_usd=0, metered_attempts=0)]
    rows += [spend(DAYS[1], "moe", 1, metered_nano_usd=3, metered_attempts=1)]
    chart = spend_chart(rows, ("day", "model"), "metered_nano_usd", DAYS, "Cost")
    assert chart is not None
    assert chart.series[0].values == (None, 3, 0)


def test_a_month_is_summed_up_to_today() -> None:
    assert running_sums({1: 5, 3: 2}, last=4, most=6) == (5, 5, 7, 7, None, None)
    assert running_sums({1: 5, 2: None, 3: 2}, last=3, most=3) == (5, None, None)


def bill(period: str, *, visible: bool = True) -> usage_pb2.Statement:
    statement = usage_pb2.Statement(
        period=period,
        lines=[
            usage_pb2.StatementLine(
                group=["team"], own_nano_usd=60, remote_nano_usd=5, shared_nano_usd=40
            )
        ],
    )
    if visible:
        statement.gpu_bill_nano_usd, statement.remote_bill_nano_usd = 100, 5
        statement.idle_nano_usd, statement.unavailable_nano_usd = 30, 10
        statement.external_nano_usd = statement.unobserved_nano_usd = 0
        statement.unsettled_nano_usd = 0
    return statement


def test_the_parts_of_a_bill_sum_to_it() -> None:
    chart = bill_chart([bill(DAYS[1])], "day", DAYS)
    parts = {each.name: each.values for each in chart.series}
    assert parts == {
        "requests, own servers": (0, 60, 0),
        "requests, remotes": (0, 5, 0),
        "idle": (0, 30, 0),
        "unavailable": (0, 10, 0),
    }


def test_a_statement_says_whether_it_closes() -> None:
    found = closed(bill(""))
    assert (found.bill, found.difference, found.total_cost) == (105, 0, 105)
    wrong = bill("")
    wrong.idle_nano_usd = 29
    assert closed(wrong).difference == 1
    hidden = closed(bill("", visible=False))
    assert (hidden.bill, hidden.difference, hidden.parts) == (None, None, {})


def test_a_rate_without_tokens_is_unknown() -> None:
    pool = usage_pb2.PoolBill(
        pool="own",
        rates=[
            usage_pb2.PoolRate(token_kind="output", allocated_nano_usd_per_mtok=7),
            usage_pb2.PoolRate(token_kind="cached_input"),
        ],
    )
    statement = usage_pb2.Statement(period=DAYS[1], pools=[pool])
    chart = rates_chart([statement], "own", "day", DAYS)
    assert {each.name: each.values for each in chart.series} == {"output": (None, 7, None)}


def test_a_file_leaves_unknown_blank_and_defuses_formulas() -> None:
    text = csv_text(["who", "nano_usd"], [["=cmd()", 5], ["-1+1", None], ["a,b", -5]])
    assert text == "who,nano_usd\r\n'=cmd(),5\r\n'-1+1,\r\n\"a,b\",-5\r\n"
