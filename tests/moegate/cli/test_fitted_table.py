"""Tables fit 80 columns: nothing is cut off, and what is left out is told."""

from __future__ import annotations

import pytest
from rich.console import Console, RenderableType

from moegate.cli.main import main
from moegate.cli.views import top as top_view
from moegate.cli.views import usage_report
from moegate.cli.views.fitted_table import Column, FittedTable, number
from moegate.v1 import generation_pb2, usage_pb2


def drawn(what: RenderableType, width: int) -> list[str]:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(what)
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= width
    return lines


def table() -> FittedTable:
    rows = FittedTable(
        [
            Column(header="name"),
            number("first to leave", leaves=2),
            number("much\nwanted"),
            number("next", leaves=1),
            Column(header="note", wraps=8),
        ]
    )
    rows.add_row("own/a", "1", "12345", "3", "out of service")
    return rows


@pytest.mark.parametrize(
    ("width", "left_out", "note_is_whole"),
    [
        (80, "", True),
        (48, "", False),
        (42, "first to leave", True),  # the column that left made room
        (30, "first to leave, next", False),
    ],
)
def test_columns_leave_by_priority_after_notes_have_wrapped(
    width: int, left_out: str, note_is_whole: bool
) -> None:
    lines = drawn(table(), width)
    text = " ".join(" ".join(lines).split())
    assert "own/a" in text
    assert "12345" in text
    _, _, told = text.partition("in a wider terminal also: ")
    assert told == left_out
    assert any("out of service" in line for line in lines) == note_is_whole
    assert "…" not in text


def test_what_cannot_leave_folds_and_loses_nothing() -> None:
    rows = FittedTable([Column(header="name"), number("tokens")])
    rows.add_row("a-name-that-is-longer-than-the-terminal", "1234567")
    lines = drawn(rows, 20)
    assert "1234567" in " ".join(lines)
    folded = "".join(line.split()[0] for line in lines if line.strip() and "─" not in line)
    assert folded == "namea-name-that-is-longer-than-the-terminal"


def fleet() -> usage_pb2.WatchFleetResponse:
    shown = usage_pb2.WatchFleetResponse()
    pool = shown.pools.add(
        pool="qwen3-30b", model="Qwen/Qwen3-30B-A3B-Instruct-2507", groups=4, saturation=1.07
    )
    pool.rates.add(token_kind="output", allocated_nano_usd_per_mtok=312_000_000)
    for i in range(3):
        own = shown.placements.add(
            placement=f"qwen3-30b/gpu-node-0{i}",
            pool="qwen3-30b",
            kind=generation_pb2.PLACEMENT_KIND_LOCAL,
            running_requests=17,
            waiting_requests=2,
            predicted_batch=37,
            distinct_experts=112.3,
            kv_tokens=40_000,
            kv_capacity_tokens=100_000,
            output_tokens_per_second=1832.0,
            reason="connection refused",
        )
        own.decode_step.FromNanoseconds(16_300_000)
    return shown


def test_top_fits() -> None:
    narrow, wide = (" ".join(drawn(top_view.view(fleet(), "x:1"), width)) for width in (80, 140))
    for text in (narrow, wide):
        assert "qwen3-30b/gpu-node-02" in text
        assert "1832" in text
        assert "0.312" in text
        assert "refused" in text
    assert "in a wider terminal also: others', D(B), step, errors" in narrow
    assert "in a wider terminal" not in wide


def test_an_expert_rank_that_lags_is_shown() -> None:
    shown = fleet()
    for placement, imbalance in zip(shown.placements, (1.43, 1.1, 0.0), strict=True):
        placement.serving = True
        placement.expert_imbalance, placement.busiest_expert_rank = imbalance, 5
    text = " ".join(" ".join(drawn(top_view.view(shown, "x:1"), 160)).split())
    assert "expert rank 5:" in text
    assert text.count("expert rank") == 1


def test_spend_fits() -> None:
    row = usage_pb2.SpendRow(
        group=["acme-research", "Qwen/Qwen3-30B-A3B"],
        requests=12_345,
        uncached_input_tokens=10**9,
        output_tokens=10**8,
        charged_nano_usd=123 * 10**9,
        unpriced_attempts=3,
    )
    spend = usage_pb2.GetSpendResponse(rows=[row, row])
    lines = drawn(usage_report.table(["tenant", "model"], spend), 80)
    assert any("acme-research" in line and "123.00" in line for line in lines)
    assert any("total" in line and "246.00" in line for line in lines)
    assert any("without a" in line for line in lines)


@pytest.mark.parametrize("columns", ["80", "140"])
def test_prices_fit(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["prices", "show", "--starter"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= int(columns)
    assert "deepinfra/deepseek-ai/DeepSeek-V4.1-Flash" in out
    assert ("wider terminal also: since, until, checked" in out) == (columns == "80")


@pytest.mark.parametrize(
    ("cell", "shown"),
    [("[/x]", "[/x]"), ("[bold]s", "[bold]s"), ("a\x1b[31mb\x07", "a\ufffd[31mb\ufffd")],
)
def test_what_callers_choose_is_shown_as_it_is(cell: str, shown: str) -> None:
    """A session's id is no markup, which failed or vanished, and no command to the terminal."""
    rows = FittedTable([Column(header="session"), number("n")])
    rows.add_row(cell, "1")
    assert f" {shown} " in " ".join(drawn(rows, 80))
