"""Traces: what the public formats say, and generators that look like them."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from simulation.generators import (
    AGENT_SESSIONS,
    AZURE_CODE,
    AZURE_CONVERSATION,
    MOONCAKE_CONVERSATION,
    Sessions,
    client_shares,
    sessions,
    single_turns,
)
from simulation.traces import TraceRow, parse_azure, parse_mooncake, spread_bins, window


def test_an_azure_trace_is_read() -> None:
    lines = [
        "TIMESTAMP,ContextTokens,GeneratedTokens\r\n",
        "2023-11-16 23:59:59.5000000,374,44\r\n",
        "2023-11-17 00:00:01.7500001,396,0\r\n",
    ]
    first, second = parse_azure(lines)
    assert (first.at_s, first.prompt_tokens, first.output_tokens) == (0.0, 374, 44)
    assert second.at_s == pytest.approx(2.2500001, abs=1e-9)
    assert second.output_tokens == 1, "an engine makes at least one token"


def test_a_mooncake_trace_is_read_with_its_prefixes() -> None:
    line = '{"timestamp": 3000, "input_length": 1100, "output_length": 7, "hash_ids": [0, 14, 15]}'
    [row] = parse_mooncake([line, "\n"])
    assert row == TraceRow(at_s=3.0, prompt_tokens=1100, output_tokens=7, content=(0, 14))


@pytest.mark.parametrize("line", ["2023-11-16 18:15:46,12", "yesterday,1,2", "2023-11-16,-4,2"])
def test_a_foreign_line_is_named(line: str) -> None:
    with pytest.raises(ValueError, match="line 1"):
        parse_azure([line])
    with pytest.raises(ValueError, match="line 1"):
        parse_mooncake([line])


def rows(*times: float) -> list[TraceRow]:
    return [TraceRow(at_s=t, prompt_tokens=10 + i, output_tokens=1) for i, t in enumerate(times)]


def test_bins_are_spread_up_to_the_next_stamp() -> None:
    spread = spread_bins(rows(0.0, 0.0, 0.0, 3.0, 6.0, 6.0), seed=1)
    times = [row.at_s for row in spread]
    assert times == sorted(times)
    assert all(0.0 <= t < 3.0 for t in times[:3])
    assert len(set(times)) == 6
    assert times[3] == 3.0
    assert all(6.0 <= t < 9.0 for t in times[4:]), "the last bin is as wide as the one before"
    assert sorted(r.prompt_tokens for r in spread) == list(range(10, 16))


def test_a_window_keeps_lengths_and_shape_at_another_rate() -> None:
    trace = rows(0.0, 1.0, 4.0, 6.0, 10.0)
    cut = window(trace, first=1, count=3, rate_per_s=2.0)
    assert [row.at_s for row in cut] == pytest.approx([0.0, 0.6, 1.0])
    assert [row.prompt_tokens for row in cut] == [11, 12, 13]
    around = window(trace, first=4, count=3, rate_per_s=1.0)
    assert [row.prompt_tokens for row in around] == [14, 10, 11]
    assert around[-1].at_s == pytest.approx(2.0)
    with pytest.raises(ValueError, match="window"):
        window(trace, first=0, count=6, rate_per_s=1.0)


@pytest.mark.parametrize(
    ("kind", "prompt", "output", "gap_cv"),
    [(AZURE_CONVERSATION, 1154.7, 211.1, 1.09), (AZURE_CODE, 2047.8, 27.9, 13.2)],
)
def test_generated_single_turns_have_the_statistics_of_the_trace(
    kind: object, prompt: float, output: float, gap_cv: float
) -> None:
    assert kind in (AZURE_CONVERSATION, AZURE_CODE)
    model = AZURE_CODE if kind is AZURE_CODE else AZURE_CONVERSATION
    made = list(islice(single_turns(model, 4.0, seed=2), 30_000))
    gaps = np.diff([row.at_s for row in made])
    assert np.mean([row.prompt_tokens for row in made]) == pytest.approx(prompt, rel=0.08)
    assert np.mean([row.output_tokens for row in made]) == pytest.approx(output, rel=0.1)
    assert gaps.std() / gaps.mean() == pytest.approx(gap_cv, rel=0.15)
    senders = {row.client for row in made}
    assert len(senders) > 50


def test_few_clients_send_most() -> None:
    shares = client_shares(73)
    assert shares[0] == pytest.approx(0.286, abs=0.03), "28.6 % in the public trace"
    assert shares[:10].sum() == pytest.approx(0.677, abs=0.04)


def share_found(made: list[TraceRow], block_tokens: int) -> float:
    """Share of prompt tokens that an endless cache would find."""
    seen: set[int] = set()
    found = total = 0
    for row in made:
        total += row.prompt_tokens
        for block in row.content[: row.prompt_tokens // block_tokens]:
            if block not in seen:
                break
            found += block_tokens
        seen.update(row.content)
    return found / total


def test_generated_conversations_look_like_mooncake() -> None:
    made = sessions(MOONCAKE_CONVERSATION, 3.4, 6000, seed=3)
    prompts = [row.prompt_tokens for row in made]
    assert np.mean(prompts) == pytest.approx(12_035, rel=0.15)
    assert np.median(prompts) == pytest.approx(6_909, rel=0.25)
    assert np.mean([row.output_tokens for row in made]) == pytest.approx(343, rel=0.05)
    assert share_found(made, 512) == pytest.approx(0.37, abs=0.08), "of an endless cache"
    assert 1.0 / np.diff([row.at_s for row in made]).mean() == pytest.approx(3.4, rel=0.15)


def test_agent_sessions_grow_and_share_all_that_went_before() -> None:
    made = sessions(AGENT_SESSIONS, 2.0, 4000, seed=4)
    prompts = [row.prompt_tokens for row in made]
    assert 200_000 < max(prompts) <= 230_000
    assert share_found(made, 512) > 0.9
    last: dict[str, TraceRow] = {}
    for row in made:
        assert len(row.content) == (row.prompt_tokens + row.output_tokens) // 512
        before = last.get(row.session)
        if before is not None:
            assert row.prompt_tokens > before.prompt_tokens + before.output_tokens
            assert row.content[: len(before.content)] == before.content
        last[row.session] = row
    assert [row.at_s for row in made] == sorted(row.at_s for row in made)


def test_sessions_are_the_same_for_the_same_seed() -> None:
    kind: Sessions = MOONCAKE_CONVERSATION
    assert sessions(kind, 2.0, 200, seed=1) == sessions(kind, 2.0, 200, seed=1)
    assert sessions(kind, 2.0, 200, seed=1) != sessions(kind, 2.0, 200, seed=2)
