"""Dated prices: which row holds when, and what a catalog file is refused for."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.accounting.prices.catalog import Prices
from gateway.accounting.prices.file import load_catalog, parse_catalog, starter_catalog
from gateway.accounting.prices.row_time import unix_s
from gateway.config.problems import ConfigError
from scheduler.pricing import TokenCounts

CATALOG = """
gpu_hours:
  - {id: h100-old, gpu: H100, usd_per_gpu_hour: "1.70", valid_from: 2025-10-01,
     valid_to: 2026-03-01, source: invoice, checked_at: 2026-01-01}
  - {id: h100-new, gpu: H100, usd_per_gpu_hour: "2.35", valid_from: 2026-03-01,
     source: invoice, checked_at: 2026-04-01}
  - {id: lab, gpu: H100, pool: lab, usd_per_gpu_hour: "0.90", valid_from: 2026-03-01,
     source: depreciation, checked_at: 2026-04-01}
remote_tokens:
  - id: flash
    provider: deepseek
    model: v4-flash
    usd_per_mtok: {input: "0.30", output: "1.20", cached_input: "0.006"}
    windows:
      - {name: off-peak, days: [mon, tue, wed, thu, fri], start: "10:00", end: "24:00",
         usd_per_mtok: {input: "0.15", output: "0.60", cached_input: "0.003"}}
      - {name: off-peak, days: [sat, sun], start: "00:00", end: "24:00",
         usd_per_mtok: {input: "0.15", output: "0.60", cached_input: "0.003"}}
    batch_usd_per_mtok: {input: "0.10", output: "0.40"}
    valid_from: 2026-09-10
    valid_to: 2026-12-01T12:00Z
    source: https://example.com/pricing
    checked_at: 2026-11-23
  - id: opus
    provider: anthropic
    model: opus
    usd_per_mtok: {input: "5", output: "25", cached_input: "0.5", cache_write: "6.25",
                   long_cache_write: "10"}
    tiers:
      - {context_over_tokens: 200000, usd_per_mtok: {input: "10", output: "37.5"}}
    valid_from: 2026-01-01
    source: https://example.com/pricing
    checked_at: 2026-11-23
showback:
  - id: own-2026
    pool: own
    usd_per_mtok: {input: "0.05", output: "0.20", cached_input: "0.01"}
    valid_from: 2026-01-01
    source: finance
    checked_at: 2026-11-01
"""


@pytest.fixture(scope="module")
def prices() -> Prices:
    return Prices([parse_catalog(CATALOG, "test")])


@pytest.mark.parametrize(
    ("at", "row_id"),
    [
        ("2026-09-09T23:59Z", None),  # unknown before its first day: never the nearest row
        ("2026-11-25T02:00Z", "flash"),  # a Wednesday
        ("2026-11-25T09:59Z", "flash"),
        ("2026-11-25T10:00Z", "flash@off-peak"),
        ("2026-11-25T23:59Z", "flash@off-peak"),
        ("2026-11-26T00:00Z", "flash"),
        ("2026-11-28T02:00Z", "flash@off-peak"),  # a Saturday
        ("2026-12-01T12:00Z", None),
    ],
)
def test_a_row_holds_at_its_time_and_its_windows_at_theirs(
    prices: Prices, at: str, row_id: str | None
) -> None:
    rates = prices.remote_rates("deepseek/v4-flash", unix_s(at))
    assert (rates and rates.row_id) == row_id


def test_the_next_change_is_the_nearest_edge(prices: Prices) -> None:
    at = unix_s("2026-11-25T02:00Z")
    assert prices.next_change_s(at) == unix_s("2026-11-25T10:00Z")
    # At midnight the weekday's window closes.
    assert prices.next_change_s(unix_s("2026-11-25T11:00Z")) == unix_s("2026-11-26T00:00Z")
    assert prices.next_change_s(unix_s("2026-12-02")) == float("inf")


def test_unknown_is_unknown(prices: Prices) -> None:
    now = unix_s("2026-11-25")
    assert prices.remote_rates("deepseek/other", now) is None
    assert prices.showback_rates("other", now) is None
    assert prices.gpu_price("own", "B200", now) is None
    assert prices.remote_rates("anthropic/opus", now, batch=True) is None


ADAPTER_ROW = """\
  - id: own-sql
    pool: own
    adapter: sql
    usd_per_mtok: {input: "0.5", output: "2"}
    valid_from: 2026-06-01
    valid_to: 2026-12-01
    source: finance
    checked_at: 2026-11-01
"""


def test_an_adapter_has_the_rates_of_its_own_rows_while_they_hold() -> None:
    prices = Prices([parse_catalog(CATALOG + ADAPTER_ROW, "test")])
    for at, row_ids in (("2026-05-31", []), ("2026-11-25", ["own-sql"]), ("2026-12-01", [])):
        found = prices.adapter_rates("own", unix_s(at))
        assert [(name, rates.row_id) for name, rates in found] == [("sql", id) for id in row_ids]
        base = prices.showback_rates("own", unix_s(at))
        assert base is not None
        assert base.row_id == "own-2026"
    assert prices.adapter_rates("other", unix_s("2026-11-25")) == ()


def test_absent_cache_prices_are_the_input_price_and_tiers_price_all(prices: Prices) -> None:
    rates = prices.remote_rates("anthropic/opus", unix_s("2026-11-25"))
    assert rates is not None
    base, tier = rates.tiers
    assert (base.cache_write, base.long_cache_write) == (6_250_000_000, 10_000_000_000)
    assert (tier.cached_input, tier.cache_write) == (10_000_000_000, 10_000_000_000)
    counts = TokenCounts(uncached_input_tokens=200_001, output_tokens=0)
    assert rates.cost_nano_usd(counts) == 2_000_010_000


def test_batch_prices_are_apart(prices: Prices) -> None:
    rates = prices.remote_rates("deepseek/v4-flash", unix_s("2026-11-25"), batch=True)
    assert rates is not None
    assert (rates.row_id, rates.tiers[0].output) == ("flash@batch", 400_000_000)


def test_gpu_prices_change_within_a_bill_and_the_pools_own_row_wins(prices: Prices) -> None:
    segments = prices.gpu_segments("own", "H100", unix_s("2026-02-28"), unix_s("2026-03-02"))
    assert [segment.price and segment.price.row_id for segment in segments] == [
        "h100-old",
        "h100-new",
    ]
    assert segments[0].end_s == segments[1].start_s == unix_s("2026-03-01")
    lab = prices.gpu_segments("lab", "H100", unix_s("2025-09-30"), unix_s("2026-04-01"))
    assert [segment.price and segment.price.row_id for segment in lab] == [None, "h100-old", "lab"]


def test_the_first_catalog_has_what_it_prices_alone() -> None:
    mine = parse_catalog(CATALOG, "mine")
    other = parse_catalog(CATALOG.replace('"0.30"', '"0.99"').replace("v4-flash", "v4"), "other")
    merged = Prices([mine, other])
    at = unix_s("2026-11-25")
    both = [merged.remote_rates(f"deepseek/{name}", at) for name in ("v4-flash", "v4")]
    assert [rates and rates.tiers[0].uncached_input for rates in both] == [300_000_000, 990_000_000]


@pytest.mark.parametrize(
    ("old", "new", "path", "words"),
    [
        ('"0.30"', "0.30", "remote_tokens[0].usd_per_mtok.input", "rounded as a float"),
        ('"0.30"', '"-0.30"', "remote_tokens[0].usd_per_mtok.input", "decimal number"),
        ('"0.30"', '"0"', "remote_tokens[0].usd_per_mtok.input", "price of zero"),
        ('"0.30"', '"0.0000003"', "remote_tokens[0].usd_per_mtok.input", "per MILLION tokens"),
        ('"1.20"', '"1200"', "remote_tokens[0].usd_per_mtok.output", "per MILLION tokens"),
        ('"0.006"', '"0.6"', "remote_tokens[0].usd_per_mtok.cached_input", "a cache that costs"),
        ('"2.35"', '"188"', "gpu_hours[1].usd_per_gpu_hour", "an hour of ONE GPU"),
        ('"2.35"', '"18.8"', "gpu_hours[1].usd_per_gpu_hour", "more than 10 times away"),
        ("2026-12-01T12:00Z", "2026-09-10", "remote_tokens[0].valid_to", "never holds"),
        ("2026-12-01T12:00Z", "2026-02-30", "remote_tokens[0].valid_to", "no such day"),
        ("2026-12-01T12:00Z", "next year", "remote_tokens[0].valid_to", "UTC date"),
        ("valid_to: 2026-03-01,", "", "gpu_hours[1].valid_from", "holds at that time, too"),
        ("id: opus", "id: flash", "remote_tokens[1].id", "has it"),
        ('"10:00"', '"25:00"', "remote_tokens[0].windows[0].start", "time of day"),
        ('end: "24:00",', 'end: "09:00",', "remote_tokens[0].windows[0].end", "crosses midnight"),
        ("[sat, sun]", "[fri, sat]", "remote_tokens[0].windows[1].start", "overlaps"),
        (
            "name: off-peak, days: [mon",
            "name: batch, days: [mon",
            "remote_tokens[0].windows[0].name",
            "batch work",
        ),
        ('"0.15"', '"0.16"', "remote_tokens[0].windows[1].name", "other prices"),
        ("    provider: deepseek\n", "", "remote_tokens[0].provider", "missing field"),
        ("source: finance", "note: finance", "showback[0].note", "unknown field"),
    ],
)
def test_a_slip_is_refused_with_its_path_and_a_fix(
    old: str, new: str, path: str, words: str
) -> None:
    assert old in CATALOG
    with pytest.raises(ConfigError) as caught:
        parse_catalog(CATALOG.replace(old, new, 1), "test")
    problem = next(problem for problem in caught.value.problems if problem.path == path)
    assert words in problem.message + problem.fix
    assert problem.fix


def test_two_rows_of_one_name_may_not_hold_at_once_however_it_is_divided() -> None:
    row = """
  - id: {id}
    provider: {provider}
    model: {model}
    usd_per_mtok: {{input: "{input}", output: "2"}}
    valid_from: 2026-01-01
    source: invoice
    checked_at: 2026-01-01"""
    first = row.format(id="first", provider="router", model="lab/large", input="1")
    second = row.format(id="second", provider="router/lab", model="large", input="2")
    with pytest.raises(ConfigError, match="holds at that time, too"):
        parse_catalog(f"remote_tokens:{first}{second}", "test")


def test_a_strange_value_passes_when_it_is_confirmed() -> None:
    free = CATALOG.replace('input: "0.30", output: "1.20"', 'input: "0", output: "0"')
    free = free.replace('cached_input: "0.006"', 'cached_input: "0"')
    with pytest.raises(ConfigError):
        parse_catalog(free, "test")
    free = free.replace("  - id: flash\n", "  - id: flash\n    confirmed: true\n")
    rates = Prices([parse_catalog(free, "test")]).remote_rates(
        "deepseek/v4-flash", unix_s("2026-11-25")
    )
    assert rates is not None
    assert rates.cost_nano_usd(TokenCounts(uncached_input_tokens=10**6, output_tokens=1)) == 0


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_catalog(tmp_path / "prices.yaml")


def test_the_starter_catalog_prices_what_its_readers_know() -> None:
    prices = Prices([starter_catalog()])
    now = unix_s("2026-11-25T02:00Z")
    opus = prices.remote_rates("anthropic/claude-opus-4-6", now)
    assert opus is not None
    # A cold and a warm call of an agent with 230k tokens of context and 1k of output, USD.
    cold = TokenCounts(uncached_input_tokens=230_000, output_tokens=1_000)
    warm = TokenCounts(
        uncached_input_tokens=11_500, cached_input_tokens=218_500, output_tokens=1_000
    )
    assert opus.cost_nano_usd(cold) == 1_175_000_000
    flash = prices.remote_rates("deepseek/deepseek-v4-flash", now)
    assert flash is not None
    assert round(flash.cost_nano_usd(cold) / 1e9, 3) == 0.070
    assert round(flash.cost_nano_usd(warm) / 1e9, 3) == 0.006
    haiku = prices.remote_rates("anthropic/claude-haiku-5-5", now)
    assert haiku is not None
    assert haiku.cost_nano_usd(cold) == 117_500_000
    assert prices.remote_rates("anthropic/claude-opus-4-6", unix_s("2026-11-22")) is None
