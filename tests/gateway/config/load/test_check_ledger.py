"""Ledger and budgets in the configuration: mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.gateway import GatewayConfig, KeyConfig, SecretConfig, TenantConfig
from gateway.config.ledger import BudgetConfig, LedgerConfig
from gateway.config.load.check_ledger import ledger_problems
from gateway.config.money import nano_usd
from scheduler.budgets.budget_window import Period

TENANTS = (
    TenantConfig(name="search", keys=(KeyConfig(id="one", sha256="a" * 64),)),
    TenantConfig(name="ads"),
)


def budget(tenant: str = "search", cap: str = "5.00", **fields: object) -> BudgetConfig:
    settings = {"period": Period.MONTH, **fields}
    return BudgetConfig(tenant=tenant, cap_usd=cap, **settings)  # type: ignore[arg-type]


def problems(*budgets: BudgetConfig, postgres: SecretConfig | None = None) -> list[tuple[str, str]]:
    config = GatewayConfig(tenants=TENANTS, budgets=budgets, ledger=LedgerConfig(postgres=postgres))
    return [(p.path, f"{p.message}: {p.fix}") for p in ledger_problems(config, Path())]


def test_budgets_of_different_scopes_are_right() -> None:
    assert (
        problems(
            budget(),
            budget(period=Period.DAY),
            budget(key="one"),
            budget(each_session=True),
            budget("ads"),
        )
        == []
    )


@pytest.mark.parametrize(
    ("wrong", "path", "text"),
    [
        (budget("serch"), "budgets[0].tenant", "no such tenant: did you mean search?"),
        (budget("x"), "budgets[0].tenant", "there are: ads, search"),
        (budget("ads", key="one"), "budgets[0].key", "no such key of this tenant"),
        (budget(cap="0.00"), "budgets[0].cap_usd", "a budget of nothing"),
    ],
)
def test_a_mistake_is_named(wrong: BudgetConfig, path: str, text: str) -> None:
    [(found, told)] = problems(wrong)
    assert found == path
    assert text in told


def test_two_budgets_of_one_scope_are_one_too_many() -> None:
    [(path, told)] = problems(budget(), budget(cap="7.00"))
    assert path == "budgets[1]"
    assert "the same tenant, key and period as budgets[0]" in told


def test_the_address_of_the_database_is_checked_and_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MOEGATE_DSN", "mysql://user:hunter2@host/db")
    [(path, told)] = problems(postgres=SecretConfig(env="MOEGATE_DSN"))
    assert path == "ledger.postgres"
    assert "hunter2" not in told
    monkeypatch.setenv("MOEGATE_DSN", "postgresql://user:hunter2@host/db")
    assert problems(postgres=SecretConfig(env="MOEGATE_DSN")) == []
    monkeypatch.delenv("MOEGATE_DSN")
    [(path, told)] = problems(postgres=SecretConfig(env="MOEGATE_DSN"))
    assert path == "ledger.postgres.env"
    assert "not set" in told


def test_amounts_are_exact() -> None:
    assert nano_usd("250.00") == 250_000_000_000
    assert nano_usd("0.000000001") == 1
