"""Amounts of money as texts: exact, with a sign, and none of them in exponents."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.money import nano_usd, usd_text
from moegate.cli.views.money import exact_usd, usd


@given(st.integers(-(2**62), 2**62))
def test_a_text_is_the_amount(amount: int) -> None:
    assert nano_usd(usd_text(amount)) == amount
    assert Decimal(exact_usd(amount)) * 10**9 == amount
    assert "E" not in usd_text(amount)


@pytest.mark.parametrize(
    ("amount", "text", "exact", "shown"),
    [
        (0, "0", "0.00", "0.00"),
        (5, "0.000000005", "0.000000005", "0.000000005"),
        (-500_000_000, "-0.5", "-0.50", "-0.5"),
        (1_500_000_000, "1.5", "1.50", "1.50"),
        (-2_000_000_000, "-2", "-2.00", "-2.00"),
        (1_234_567_890_000, "1234.56789", "1234.56789", "1,234.57"),
        (10_000_000_000, "10", "10.00", "10.00"),
    ],
)
def test_decimals(amount: int, text: str, exact: str, shown: str) -> None:
    assert (usd_text(amount), exact_usd(amount), usd(amount)) == (text, exact, shown)
