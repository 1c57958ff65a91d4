"""`moegate prices` on real files and the real package."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.accounting.prices.file import load_catalog
from moegate.cli.main import main
from tests.gateway.accounting.prices.test_prices import CATALOG


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    path = tmp_path / "prices.yaml"
    path.write_text(CATALOG)
    return path


def test_check_tells_rows_or_problems(catalog: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prices", "check", str(catalog)]) == 0
    assert "3 GPU, 2 remote and 1 showback rows" in capsys.readouterr().out
    catalog.write_text(CATALOG.replace('"0.30"', '"300000"'))
    assert main(["prices", "check", str(catalog)]) == 1
    assert "remote_tokens[0].usd_per_mtok.input (line " in capsys.readouterr().err


def test_show_gives_what_holds_at_a_time(
    catalog: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["prices", "show", str(catalog), "--at", "2026-11-25T11:00Z"]) == 0
    out = capsys.readouterr().out
    assert "deepseek/v4-flash @off-peak" in out
    assert "0.15" in out
    assert "1.70" not in out
    assert "deepseek/v4-flash (batch)" in out
    assert "(batch): of offline jobs and requests of class batch" in out
    assert main(["prices", "show", str(catalog), "--all", "--at", "2026-11-25"]) == 0
    assert "1.70" in capsys.readouterr().out
    assert main(["prices", "show", str(catalog), "--at", "tomorrow"]) == 2


def test_import_writes_a_draft_that_loads_and_says_what_would_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "draft.yaml"
    arguments = ["--provider", "deepseek", "--model", "deepseek-v4*", "--starter"]
    assert main(["prices", "import", *arguments, "--out", str(out)]) == 0
    rows = load_catalog(out).remote_tokens
    assert {row.model for row in rows} >= {"deepseek-v4-flash", "deepseek-v4-pro"}
    assert all(row.source.startswith("https://") for row in rows)
    told = capsys.readouterr().err
    assert "deepseek/deepseek-v4" in told or told.count("\n") == 1
    assert main(["prices", "import", "--provider", "nobody"]) == 2
    assert "knows no provider" in capsys.readouterr().err
