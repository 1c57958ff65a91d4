"""Price rows for readers: which hold, whom they price, and what should be checked."""

from __future__ import annotations

import msgspec

from gateway.accounting.prices.catalog import Prices
from gateway.accounting.prices.file import parse_catalog
from gateway.accounting.prices.listing import ListedRow, listed_rows, unknown_prices
from gateway.accounting.prices.row_time import unix_s
from tests import serving
from tests.gateway.accounting.prices.test_prices import CATALOG

PRICES = Prices([parse_catalog(CATALOG, "test")])
POOL = serving.pool(["http://127.0.0.1:1"])
BY_CATALOG = msgspec.structs.replace(
    POOL, gpu=msgspec.structs.replace(POOL.gpu, usd_per_gpu_hour=None)
)
REMOTE = msgspec.structs.replace(
    serving.remote("http://127.0.0.1:1"), price_row="deepseek/v4-flash"
)
CONFIG = serving.config(pools=[BY_CATALOG], remotes=[REMOTE])
AT_S = unix_s("2026-11-25")
"""A Wednesday, at midnight."""


def rows(at_s: float = AT_S, *, every_row: bool = False) -> dict[str, ListedRow]:
    return {each.row.id: each for each in listed_rows(PRICES, CONFIG, at_s, every_row=every_row)}


def test_only_rows_that_hold_unless_all_are_asked_for() -> None:
    assert list(rows()) == ["h100-new", "lab", "own-2026", "flash", "opus"]
    every = rows(every_row=True)
    assert list(every)[:2] == ["h100-old", "h100-new"], "rows of a subject by their time"
    old = every["h100-old"]
    assert not old.holds
    assert old.used_by == old.warnings == ()


def test_a_row_names_the_servers_that_it_prices() -> None:
    found = rows()
    assert found["h100-new"].used_by == found["own-2026"].used_by == ("own",)
    assert found["flash"].used_by == ("far",)
    assert found["lab"].used_by == found["opus"].used_by == ()
    stated = serving.config(pools=[POOL])
    by_id = {each.row.id: each for each in listed_rows(PRICES, stated, AT_S, every_row=False)}
    assert by_id["h100-new"].used_by == (), "the configuration's own price precedes"


def test_token_prices_are_those_of_the_window_that_is_open() -> None:
    night, noon = rows()["flash"], rows(AT_S + 12 * 3600)["flash"]
    assert (night.window, night.tiers[0].output) == ("", 1_200_000_000)
    assert (noon.window, noon.tiers[0].output) == ("off-peak", 600_000_000)
    assert [tier.context_over_tokens for tier in rows()["opus"].tiers] == [0, 200_000]


def test_warnings_say_what_should_be_checked() -> None:
    found = rows()
    assert found["flash"].warnings == (
        "it ends in 7 days and no row follows: then the price is unknown",
    )
    assert found["h100-new"].warnings == ("it was compared with its source 238 days ago",)
    assert found["own-2026"].warnings == ()
    before = rows(unix_s("2026-02-20"))["h100-old"]
    assert before.warnings == (), "it ends soon, but another row follows"


def test_servers_without_a_price_are_named() -> None:
    assert list(unknown_prices(PRICES, CONFIG, AT_S)) == []
    later = list(unknown_prices(PRICES, CONFIG, unix_s("2026-12-02")))
    assert later == ["remote far: no row of deepseek/v4-flash holds at this time"]
    bare = serving.config(pools=[BY_CATALOG], remotes=[serving.remote("http://127.0.0.1:1")])
    assert list(unknown_prices(Prices(), bare, AT_S)) == [
        "pool own: no row gives the price of its H100 at this time",
        "pool own: no showback row holds at this time, so charges are unknown",
        "remote far: it names no price_row, so its cost is unknown",
    ]
