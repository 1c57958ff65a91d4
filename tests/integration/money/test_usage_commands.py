"""`moegate usage` and `moegate admin` against a real gateway."""

from __future__ import annotations

import asyncio
import csv
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from moegate.cli.main import main
from tests.integration.money.test_usage_admin import Stack, fill, running

Command = Callable[..., Coroutine[Any, Any, tuple[int, str, str]]]


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running(tmp_path) as made:
        fill(made)
        await made.write()
        yield made


@pytest.fixture
def moegate(
    stack: Stack, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    """Runs a command as the operator: exit status, standard output, standard error."""
    monkeypatch.setenv("MOEGATE_API_KEY", "mg-operator")

    async def run(*arguments: str) -> tuple[int, str, str]:
        target = ("--target", stack.serving.gateway.address)
        status = await asyncio.to_thread(main, [*arguments, *target])
        out, err = capsys.readouterr()
        return status, out, err

    return run


async def test_usage_prints_tables_json_and_pictures(moegate: Command, tmp_path: Path) -> None:
    since = ("--since", "2026-01-01", "--until", "2026-02-01")
    status, out, _ = await moegate("usage", "spend", *since)
    assert status == 0
    assert "0.00000041" in out  # the sum, in dollars
    assert "1 without a price" in out
    picture = tmp_path / "spend.png"
    status, out, _ = await moegate(
        "usage", "models", *since, "--order", "tokens", "--json", "--png", str(picture)
    )
    rows = json.loads(out)["rows"]
    assert [(row["week"], row["model"]) for row in rows][:2] == [
        ("2026-01-12", "small"),
        ("2026-01-12", "large"),
    ]
    assert sum(row["charged_nano_usd"] or 0 for row in rows) == 411
    assert [row["model"] for row in rows if row["charged_nano_usd"] is None] == ["small"]
    assert picture.read_bytes().startswith(b"\x89PNG")


async def test_usage_exports_csv_and_parquet(moegate: Command, tmp_path: Path) -> None:
    for name in ("rows.csv", "rows.parquet"):
        status, out, _ = await moegate("usage", "export", str(tmp_path / name))
        assert (status, out.split()[0]) == (0, "5")
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["charged_nano_usd"] for row in rows] == ["100", "10", "300", "1", ""]
    assert rows[0]["ended_at"] == "2026-01-12T00:01:00+00:00"
    columns = parquet.read_table(tmp_path / "rows.parquet").to_pydict()
    assert columns["charged_nano_usd"] == [100, 10, 300, 1, None]
    assert columns["reasoning_tokens"] == [None] * 5
    assert columns["ended_at"][0].isoformat() == "2026-01-12T00:01:00+00:00"
    status, _, err = await moegate("usage", "export", str(tmp_path / "rows.xlsx"))
    assert status == 1
    assert ".csv or .parquet" in err


async def test_admin_sets_lists_and_deletes_budgets(moegate: Command) -> None:
    scope = ("--tenant", "team", "--key-id", "test", "--period", "day")
    least = ("admin", "set-budget", *scope, "--cap-usd", "0.000000001")
    status, out, err = await moegate(*least)
    assert (status, out) == (1, "")
    assert "below the cost of the least request for moe" in err
    assert "--force" in err
    status, out, _ = await moegate(*least, "--force")
    assert status == 0
    assert "warning: budget.scope: the cap, 1 nano-USD, is below" in out
    status, out, _ = await moegate("admin", "set-budget", *scope, "--cap-usd", "12.50", "--soft")
    assert (status, out.splitlines()[0]) == (0, "soft budget of $12.50 a day for team test")
    # The catalog has no row for the pool.
    assert out.splitlines()[1].startswith("warning: budget.scope: own has no price per token now:")
    assert "found: tenant team, key test, a day" in out
    assert "fix: add to prices.catalog a showback row" in out
    status, out, _ = await moegate("admin", "budgets", "--json")
    (budget,) = json.loads(out)["budgets"]
    assert budget["cap_nano_usd"] == "12500000000"
    status, out, _ = await moegate("admin", "budgets")
    assert "soft, set at run time" in out
    status, out, _ = await moegate("admin", "delete-budget", *scope)
    assert status == 0
    status, _, err = await moegate("admin", "delete-budget", *scope)
    assert status == 1
    assert "NOT_FOUND" in err


async def test_admin_drains_corrects_and_tells_of_the_ledger(
    moegate: Command, stack: Stack, tmp_path: Path
) -> None:
    status, out, _ = await moegate("admin", "drain", "own/a")
    assert (status, out) == (0, "own/a gets no new request; 0 still run there\n")
    assert (await moegate("admin", "undrain", "own/a"))[0] == 0
    epoch = stack.serving.gateway.accounting.owner.epoch
    status, out, _ = await moegate(
        "admin", "correct", epoch, "0", "--usd=-0.00000004", "--note", "invoice"
    )
    assert (status, out) == (0, "the attempt is now charged $0.00000006\n")
    status, out, _ = await moegate("admin", "ledger")
    assert out.startswith("writes\n5 rows written, 0 wait")
    status, _, err = await moegate("admin", "reload")
    assert status == 1
    assert "was not started from a file" in err
