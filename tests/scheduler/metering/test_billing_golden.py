"""From the bytes of a stream to dollars: cases in which other gateways were seen to bill wrong.

Prices are those of a model with every kind of rate; each case says what the request costs by hand.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from gateway.domain.failures import UpstreamFailure
from gateway.upstream.anthropic.stream import MessageDecoder
from gateway.upstream.openai.stream import StreamDecoder
from scheduler.contract import Usage
from scheduler.metering.settlement import token_counts
from scheduler.pricing import RateTier, TokenRates

PRICES = TokenRates(
    row_id="golden",
    tiers=(
        RateTier(
            uncached_input=5_000_000_000,
            cached_input=500_000_000,
            cache_write=6_250_000_000,
            long_cache_write=10_000_000_000,
            output=25_000_000_000,
        ),
    ),
)
"""$5 in, $0.50 cached, $6.25 and $10 written, $25 out, per million."""


def usd(usage: Usage | None) -> Decimal:
    assert usage is not None
    return Decimal(PRICES.cost_nano_usd(token_counts(usage))) / 10**9


def event(**fields: Any) -> bytes:
    return json.dumps({"model": "m", **fields}).encode()


def word(text: str, finish: str | None = None, index: int = 0) -> dict[str, Any]:
    return {"index": index, "delta": {"content": text}, "finish_reason": finish}


def openai(*payloads: bytes, choices: int = 1, prompt_tokens: int = 77) -> Usage | None:
    decoder = StreamDecoder(choices, prompt_tokens=lambda: prompt_tokens)
    decoder.feed([*payloads, b"[DONE]"])
    return decoder.end().usage


def anthropic(start: dict[str, int | dict[str, int]], **final: int) -> Usage | None:
    decoder = MessageDecoder(prompt_tokens=lambda: 77)
    block = {"type": "text", "text": ""}
    decoder.feed(
        [
            event(type="message_start", message={"model": "m", "usage": start}),
            event(type="content_block_start", index=0, content_block=block),
            event(type="content_block_delta", index=0, delta={"type": "text_delta", "text": "Hi"}),
            event(type="content_block_stop", index=0),
            event(type="message_delta", delta={"stop_reason": "end_turn"}, usage=final),
            event(type="message_stop"),
        ]
    )
    return decoder.end().usage


def test_cached_tokens_inside_the_prompt_and_beside_it_cost_the_same() -> None:
    """OpenAI counts them inside, Anthropic outside: the fact behind most wrong bills."""
    inside = openai(
        event(choices=[word("Hi", "stop")]),
        event(
            choices=[],
            usage={
                "prompt_tokens": 10_000,
                "completion_tokens": 100,
                "prompt_tokens_details": {"cached_tokens": 9_000},
            },
        ),
    )
    beside = anthropic(
        {"input_tokens": 1_000, "cache_read_input_tokens": 9_000, "output_tokens": 1},
        output_tokens=100,
    )
    # 1,000 x $5 + 9,000 x $0.50 + 100 x $25 per million.
    assert usd(inside) == usd(beside) == Decimal("0.012")


def test_a_last_chunk_with_choices_keeps_its_cached_tokens() -> None:
    """Dropped elsewhere: four times the price."""
    account = {
        "prompt_tokens": 10_000,
        "completion_tokens": 1,
        "prompt_tokens_details": {"cached_tokens": 9_900},
    }
    assert usd(openai(event(choices=[word("Hi", "stop")], usage=account))) == Decimal("0.005475")


def test_a_stream_without_an_account_is_an_estimate_and_not_free() -> None:
    """Logged as zero elsewhere: the invoice was 500 times the report."""
    usage = openai(event(choices=[word("Hi there, you")]), event(choices=[word("", "stop")]))
    assert usage is not None
    assert usage.estimated
    assert usd(usage) >= Decimal("0.000385") + Decimal("0.000025")


def test_cache_writes_of_both_lengths_are_priced_each_by_its_own_rate() -> None:
    """Only the first breakdown priced elsewhere: 20 to 60 % too little."""
    usage = anthropic(
        {
            "input_tokens": 100,
            "cache_creation_input_tokens": 3_000,
            "cache_creation": {
                "ephemeral_5m_input_tokens": 1_000,
                "ephemeral_1h_input_tokens": 2_000,
            },
            "output_tokens": 1,
        },
        output_tokens=10,
    )
    # 100 x $5 + 1,000 x $6.25 + 2,000 x $10 + 10 x $25.
    assert usd(usage) == Decimal("0.027")


def test_cached_tokens_are_not_charged_twice() -> None:
    usage = Usage(prompt_tokens=1_000, cached_tokens=1_000, completion_tokens=0)
    assert usd(usage) == Decimal("0.0005")


@pytest.mark.parametrize(
    "account",
    [
        {"completion_tokens": 120, "completion_tokens_details": {"reasoning_tokens": 100}},
        {
            "completion_tokens": 20,
            "total_tokens": 1_120,
            "completion_tokens_details": {"reasoning_tokens": 100},
        },
    ],
    ids=["inside the output", "beside it"],
)
def test_reasoning_is_charged_as_output_once(account: dict[str, Any]) -> None:
    usage = openai(
        event(choices=[word("4", "stop")]),
        event(choices=[], usage={"prompt_tokens": 1_000, **account}),
    )
    assert usd(usage) == Decimal("0.005") + Decimal("0.003")


def test_the_prompt_of_several_choices_is_charged_once() -> None:
    frames = [event(choices=[word("Hi", "stop", index)]) for index in range(4)]
    account = {"prompt_tokens": 1_000, "completion_tokens": 40}
    usage = openai(*frames, event(choices=[], usage=account), choices=4)
    assert usd(usage) == Decimal("0.005") + Decimal("0.001")


def test_running_accounts_are_not_added_up() -> None:
    frames = [
        event(choices=[word("x")], usage={"prompt_tokens": 1_000, "completion_tokens": n})
        for n in range(1, 10)
    ]
    last = {"prompt_tokens": 1_000, "completion_tokens": 10}
    usage = openai(*frames, event(choices=[word("", "stop")], usage=last))
    assert usd(usage) == Decimal("0.00525")


def test_a_cut_stream_tells_no_account_that_could_pass_for_a_whole_one() -> None:
    decoder = StreamDecoder(1, prompt_tokens=lambda: 77)
    decoder.feed([event(choices=[word("Hi")])])
    with pytest.raises(UpstreamFailure, match="cut"):
        decoder.end()


def test_more_cached_tokens_than_prompt_never_make_a_negative_charge() -> None:
    usage = Usage(prompt_tokens=10, cached_tokens=50, cache_write_tokens=9, completion_tokens=1)
    counts = token_counts(usage)
    assert (counts.uncached_input_tokens, counts.cached_input_tokens) == (0, 10)
    assert counts.cache_write_tokens == 0
