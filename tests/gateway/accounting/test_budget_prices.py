"""What is told of budgets that cap what has no price."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from moegate.cli.commands import check

MODELS = """
pools:
  - {name: own, model: moe, gpu: {type: H100, count: 1}, replicas: [{name: a, url: "http://a:1"}]}
  - {name: old, model: moe, gpu: {type: H100, count: 1}, replicas: [{name: a, url: "http://b:1"}]}
  - {name: new, model: other, gpu: {type: H100, count: 1}, replicas: [{name: a, url: "http://c:1"}]}
remotes:
  - {name: far, model: other, url: "http://d:1", remote_class: eu}
tenants:
  - name: team
    keys:
      - {id: all, sha256: "HASH1"}
      - {id: moe, sha256: "HASH2", models: [moe], remote_classes: []}
prices: {catalog: prices.yaml}
""".replace("HASH", "0" * 63)
SHOWBACK = """
  - id: row-{pool}
    pool: {pool}
    usd_per_mtok: {{input: "1", cached_input: "0.1", output: "2"}}
    valid_from: {start}
    source: test
    checked_at: 2026-01-01
"""


def warnings(
    folder: Path,
    budgets: str,
    capsys: pytest.CaptureFixture[str],
    *priced: str,
    start: str = "2026-01-01",
) -> list[str]:
    """The first lines of the warnings of `moegate check`; it must not fail for them."""
    rows = "".join(SHOWBACK.format(pool=pool, start=start) for pool in priced)
    (folder / "prices.yaml").write_text(f"showback:{rows or ' []'}\n")
    (folder / "moegate.yaml").write_text(f"{MODELS}\nbudgets:\n{budgets}\n")
    parser = argparse.ArgumentParser()
    check.add_arguments(parser.add_subparsers(required=True).add_parser("check"))
    args = parser.parse_args(["check", str(folder / "moegate.yaml")])
    status = args.run(args)
    out, err = capsys.readouterr()
    assert (status, err) == (0, "")
    lines = out.splitlines()
    found = [i for i, line in enumerate(lines) if line.startswith("warning: ")]
    for i in found:
        assert lines[i + 1].strip().startswith("found: tenant team")
        assert "a showback row" in lines[i + 2]
    return [lines[i].removeprefix("warning: ") for i in found]


KEY = '  - {tenant: team, key: moe, period: day, cap_usd: "5"}'
SOFT = '  - {tenant: team, key: moe, period: day, cap_usd: "5", hard: false}'
TENANT = '  - {tenant: team, period: month, cap_usd: "5"}'
NONE = "have no price per token now"


def test_a_hard_budget_without_any_price_refuses_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = "every request for moe is refused, PRICE_UNKNOWN"
    assert warnings(tmp_path, KEY, capsys) == [f"budgets[0]: own, old {NONE}: {refused}"]
    later = warnings(tmp_path, KEY, capsys, "own", "old", start="2999-01-01")
    assert later == [f"budgets[0]: own, old {NONE}: {refused}"]


def test_where_some_are_priced_the_others_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = "no request for moe that falls under the budget runs there"
    (line,) = warnings(tmp_path, KEY, capsys, "own")
    assert line == f"budgets[0]: old has no price per token now: {told}"
    assert warnings(tmp_path, KEY, capsys, "own", "old") == []


def test_a_soft_budget_does_not_count_what_has_no_price(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = "what runs there is charged nothing, and the budget does not count it"
    (line,) = warnings(tmp_path, SOFT, capsys, "old")
    assert line == f"budgets[0]: own has no price per token now: {told}"


def test_each_model_that_a_key_of_the_tenant_may_call_is_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = warnings(tmp_path, f"{KEY}\n{TENANT}", capsys, "own", "old")
    assert lines == [
        f"budgets[1]: new, far {NONE}: every request for other is refused, PRICE_UNKNOWN"
    ]
    (line,) = warnings(tmp_path, TENANT, capsys, "own", "old", "new")
    assert line.startswith("budgets[0]: far has no price")
