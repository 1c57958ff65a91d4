"""/metrics of a real vLLM 0.32, read."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.vllm_metrics import BadMetrics, parse_metrics

GOLDEN = Path(__file__).resolve().parents[1] / "golden/vllm_0_32/metrics.txt"


def test_the_metrics_of_a_real_server() -> None:
    text = GOLDEN.read_bytes()
    report = parse_metrics(text, "pool/a", 5.0, 8192)
    assert (report.placement, report.at_s, report.context_tokens) == ("pool/a", 5.0, 8192)
    assert (report.running, report.waiting) == (0, 0)
    assert report.kv_capacity_tokens == 128 * 600
    assert report.prompt_tokens_total > 300
    assert report.generation_tokens_total > 50


def test_ranks_are_added_up_and_their_usage_is_their_mean() -> None:
    text = b"\n".join(
        b'vllm:num_requests_running{engine="%d"} %d.0\n'
        b'vllm:kv_cache_usage_perc{engine="%d"} 0.%d' % (rank, rank + 1, rank, rank + 1)
        for rank in range(2)
    )
    report = parse_metrics(text, "p", 0.0, None)
    assert report.running == 3
    assert report.kv_usage == pytest.approx(0.15)


def test_what_is_absent_counts_as_nothing() -> None:
    report = parse_metrics(b"python_info 1.0\n", "p", 0.0, None)
    assert (report.running, report.waiting, report.kv_usage) == (0, 0, 0.0)
    assert report.kv_capacity_tokens is None


@pytest.mark.parametrize("value", [b"NaN", b"-1.0", b"+Inf", b"many", b""])
def test_a_line_without_a_count_is_an_error_that_shows_it(value: bytes) -> None:
    line = b'vllm:num_requests_running{engine="0"} ' + value
    with pytest.raises(BadMetrics, match="num_requests_running"):
        parse_metrics(line, "p", 0.0, None)
