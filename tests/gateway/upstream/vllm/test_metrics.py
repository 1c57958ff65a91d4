"""/metrics of a real vLLM 0.32, read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.upstream.vllm.metrics import (
    BadMetrics,
    parse_metrics,
    parse_rank_metrics,
    parse_stage_metrics,
)
from scheduler.engine_steps import EngineCounts
from tests.known import IDLE_METRICS, known

GOLDEN = Path(__file__).resolve().parents[3] / "golden/vllm_0_32/metrics.txt"
RUST_GOLDEN = GOLDEN.parents[1] / "vllm_0_33_rust" / "metrics.txt"


def gauges(ranks: int) -> bytes:
    """What each idle rank says at least."""
    return b"".join(IDLE_METRICS.replace(b'"0"', b'"%d"' % rank) for rank in range(ranks))


def test_the_metrics_of_a_real_server() -> None:
    text = GOLDEN.read_bytes()
    report = parse_metrics(text, "pool/a", 5.0, 8192)
    assert (report.placement, report.at_s, report.context_tokens) == ("pool/a", 5.0, 8192)
    assert (report.running, report.waiting) == (0, 0)
    assert report.kv_capacity_tokens == 128 * 600
    assert known(report.prompt_tokens_total) > 300
    assert known(report.generation_tokens_total) > 50


def test_the_metrics_of_the_front_end_in_rust() -> None:
    text = RUST_GOLDEN.read_bytes()
    report = parse_metrics(text, "pool/a", 5.0, 8192)
    assert (report.running, report.waiting, report.kv_usage) == (0, 0, 0.0)
    assert report.kv_capacity_tokens is None, "it does not tell"
    assert known(report.generation_tokens_total) > 50
    counts = report.counts
    assert counts is not None
    assert known(counts.steps) > 20
    assert known(counts.gaps) > 20
    assert counts.cached_prompt_tokens == 768


def test_the_counts_that_the_fit_of_step_times_needs() -> None:
    counts = parse_metrics(GOLDEN.read_bytes(), "pool/a", 5.0, 8192).counts
    assert counts is not None
    assert counts.ranks == 1
    assert known(counts.gaps) > 20
    assert 0.001 < known(counts.gaps_s) / known(counts.gaps) < 1.0
    assert known(counts.first_tokens) > 5
    assert known(counts.steps) > known(counts.gaps) / 32  # at most 32 sequences share a step
    assert counts.cached_prompt_tokens == 768
    assert (counts.preemptions, counts.drafts) == (0, 0)


def stage(running: int, waiting: int, prompt: int, output: int, usage: float) -> bytes:
    """A page of one engine."""
    return b"\n".join(
        (
            b'vllm:num_requests_running{engine="0"} %d' % running,
            b'vllm:num_requests_waiting{engine="0"} %d' % waiting,
            b'vllm:prompt_tokens_total{engine="0"} %d' % prompt,
            b'vllm:prompt_tokens_cached_total{engine="0"} %d' % (prompt // 2),
            b'vllm:generation_tokens_total{engine="0"} %d' % output,
            b'vllm:kv_cache_usage_perc{engine="0"} %.2f' % usage,
            b'vllm:cache_config_info{engine="0",kv_cache_size_tokens="%d"} 1' % (1000 * output),
            b'vllm:time_to_first_token_seconds_count{engine="0"} 7',
            b'vllm:request_prefill_time_seconds_sum{engine="0"} 3.5',
            b"",
        )
    )


def test_a_disaggregated_replica_tells_each_figure_from_the_stage_that_has_it() -> None:
    prefill = [stage(1, 2, 500, 7, 0.9)]
    decode = [stage(10, 1, 9999, 60, 0.2), stage(20, 0, 9999, 40, 0.4)]
    report = parse_stage_metrics(prefill, decode, "own/a", 5.0, 4096)
    assert (report.running, report.waiting) == (31, 3)
    assert (report.prompt_tokens_total, report.generation_tokens_total) == (500, 100)
    assert (report.kv_capacity_tokens, report.context_tokens) == (100_000, 4096)
    assert known(report.kv_usage) == pytest.approx(0.3)
    prefills = report.prefills
    assert prefills is not None
    assert (prefills.first_tokens, prefills.cached_prompt_tokens) == (7, 250)
    assert prefills.prefill_s == 3.5
    with pytest.raises(BadMetrics, match="num_requests_waiting"):
        parse_stage_metrics(prefill, [b"vllm:num_requests_running 1\n"], "own/a", 5.0, None)


def test_the_metrics_of_a_real_pair() -> None:
    """Eight prompts of 18,640 tokens together, which the engine that decodes fetched by NIXL."""
    prefill, decode = ((GOLDEN.parent / f"metrics_pair_{s}.txt") for s in ("prefill", "decode"))
    report = parse_stage_metrics([prefill.read_bytes()], [decode.read_bytes()], "a", 5.0, None)
    transfers = report.transfers
    assert transfers is not None
    assert (transfers.count, transfers.requests, transfers.tokens) == (8, 8, 18_640)
    assert transfers.seconds == pytest.approx(0.429694)
    assert report.prompt_tokens_total == 18_640
    assert report.prefills is not None
    assert report.prefills.cached_prompt_tokens == 0
    both = parse_stage_metrics(
        [prefill.read_bytes()], [decode.read_bytes()] * 2, "a", 5.0, None
    ).transfers
    assert both is not None
    assert (both.count, both.requests, both.tokens) == (16, 16, 37_280)
    alone = GOLDEN.read_bytes()  # of a connector that counts nothing
    assert parse_stage_metrics([alone], [alone], "a", 5.0, None).transfers is None


def test_the_counts_of_ranks_and_of_speculation() -> None:
    text = b"\n".join(
        b'vllm:generation_tokens_total{engine="%d"} 50\n'
        b'vllm:inter_token_latency_seconds_count{engine="%d"} 20\n'
        b'vllm:inter_token_latency_seconds_sum{engine="%d"} 0.5\n'
        b'vllm:kv_cache_usage_perc{engine="%d"} 0.%d\n'
        b'vllm:spec_decode_num_drafts_total{engine="%d"} 20\n'
        b'vllm:spec_decode_num_draft_tokens_total{engine="%d"} 60'
        % (*(rank,) * 4, rank + 1, rank, rank)
        for rank in range(2)
    )
    report = parse_metrics(text + b"\n" + gauges(2), "p", 0.0, None)
    assert report.kv_usage_fullest == pytest.approx(0.2)
    assert report.counts == EngineCounts(ranks=2, gaps=40, gaps_s=1.0, drafts=40, draft_tokens=120)


def test_ranks_are_added_up_and_their_usage_is_their_mean() -> None:
    text = b"\n".join(
        b'vllm:num_requests_running{engine="%d"} %d.0\n'
        b'vllm:num_requests_waiting{engine="%d"} 4.0\n'
        b'vllm:kv_cache_usage_perc{engine="%d"} 0.%d' % (rank, rank + 1, rank, rank, rank + 1)
        for rank in range(2)
    )
    report = parse_metrics(text + b"\n", "p", 0.0, None)
    assert (report.running, report.waiting) == (3, 8)
    assert report.kv_usage == pytest.approx(0.15)


def test_what_is_absent_is_unknown() -> None:
    report = parse_metrics(gauges(1), "p", 0.0, None)
    assert (report.running, report.waiting) == (0, 0)
    unknown = (report.kv_usage, report.kv_usage_fullest, report.kv_capacity_tokens)
    totals = (report.prompt_tokens_total, report.generation_tokens_total)
    assert (*unknown, *totals) == (None,) * 5
    assert report.counts == EngineCounts(ranks=1)
    assert (report.counts.gaps, report.counts.preemptions, report.counts.drafts) == (None, None, 0)


def test_a_server_that_does_not_tell_its_cache_is_read_all_the_same() -> None:
    lines = GOLDEN.read_bytes().splitlines(keepends=True)
    text = b"".join(line for line in lines if b"cache_config_info" not in line)
    report = parse_metrics(text, "p", 0.0, 8192)
    assert (report.kv_capacity_tokens, report.running, report.context_tokens) == (None, 0, 8192)
    assert known(report.generation_tokens_total) > 50


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "no vLLM series"),
        (b"python_info 1.0\n", "no vLLM series in the page of metrics, .* 'python_info 1.0"),
        (b"<html><body>Welcome</body></html>\n", "begins with '<html>"),
        (IDLE_METRICS[:-2], "cut short within its line 'vllm:num_requests_waiting.* 0.'"),
        (IDLE_METRICS.splitlines(keepends=True)[0], "lacks vllm:num_requests_waiting of p$"),
        (IDLE_METRICS.splitlines(keepends=True)[1], "lacks vllm:num_requests_running of p$"),
        (b"vllm:prompt_tokens_total 3\n", "lacks .*_running and vllm:num_requests_waiting"),
    ],
)
def test_a_page_that_does_not_tell_what_runs_is_not_idle(text: bytes, said: str) -> None:
    with pytest.raises(BadMetrics, match=said):
        parse_metrics(text, "p", 0.0, None)


@pytest.mark.parametrize("value", [b"NaN", b"-1.0", b"+Inf", b"many", b""])
def test_a_line_without_a_count_is_an_error_that_shows_it(value: bytes) -> None:
    line = b'vllm:num_requests_running{engine="0"} ' + value + b"\n"
    with pytest.raises(BadMetrics, match="num_requests_running"):
        parse_metrics(line, "p", 0.0, None)


RANKS = b"".join(
    b'vllm:num_requests_running{engine="%d",model_name="m"} %d.0\n'
    b'vllm:num_requests_waiting{engine="%d",model_name="m"} 0.0\n'
    b'vllm:kv_cache_usage_perc{engine="%d",model_name="m"} 0.%d\n'
    b'vllm:generation_tokens_total{engine="%d",model_name="m"} %d.0\n'
    b'vllm:cache_config_info{block_size="16",engine="%d",num_gpu_blocks="30"} 1.0\n'
    % (rank, rank + 1, rank, rank, rank + 1, rank, 100 * rank, rank)
    for rank in range(3)
)


def test_pinned_ranks_have_a_report_each() -> None:
    reports = parse_rank_metrics(RANKS, ("a/0", "a/1", "a/2"), 5.0, 8192)
    assert [(r.placement, r.running, r.generation_tokens_total) for r in reports] == [
        ("a/0", 1, 0), ("a/1", 2, 100), ("a/2", 3, 200),
    ]  # fmt: skip
    assert [r.kv_usage for r in reports] == pytest.approx([0.1, 0.2, 0.3])
    assert {(r.kv_capacity_tokens, r.context_tokens, r.at_s) for r in reports} == {(160, 8192, 5.0)}
    assert [r.counts.ranks for r in reports if r.counts] == [1, 1, 1]


def test_a_rank_too_few_or_too_many_is_an_error_that_names_it() -> None:
    names = ("a/0", "a/1", "a/2", "a/3", "a/4")
    with pytest.raises(BadMetrics, match=r"no series with engine=3, 4: is .* 5, too large"):
        parse_rank_metrics(RANKS, names, 5.0, None)
    with pytest.raises(BadMetrics, match="rank 2: data_parallel_ranks, 2, is too small"):
        parse_rank_metrics(RANKS, ("a/0", "a/1"), 5.0, None)


def test_a_rank_without_its_gauges_is_an_error_that_names_it() -> None:
    lines = RANKS.splitlines(keepends=True)
    text = b"".join(
        line for line in lines if not line.startswith(b'vllm:num_requests_waiting{engine="1"')
    )
    with pytest.raises(BadMetrics, match="lacks vllm:num_requests_waiting of a/1"):
        parse_rank_metrics(text, ("a/0", "a/1", "a/2"), 5.0, None)


TOLD = b"\n".join(
    b'vllm:cache_config_info{block_size="128",cache_dtype="auto",engine="%d",'
    b'kv_cache_max_concurrency="9.375",kv_cache_size_tokens="76800",num_gpu_blocks="1200"} 1.0'
    % rank
    for rank in range(2)
)
"""Lines of a real server with two ranks of 600 blocks each: the blocks are those of both."""


def capacities(text: bytes, ranks: int) -> list[int | None]:
    """KV capacity of the whole server, then of each pinned rank."""
    text += b"\n" + gauges(ranks)
    names = [f"a/{rank}" for rank in range(ranks)]
    pinned = parse_rank_metrics(text, names, 5.0, None)
    whole = parse_metrics(text, "a", 5.0, None)
    return [report.kv_capacity_tokens for report in (whole, *pinned)]


def test_the_kv_cache_of_a_data_parallel_server_is_counted_once() -> None:
    assert capacities(TOLD, 2) == [153_600, 76_800, 76_800]


def test_blocks_of_all_ranks_are_divided_where_no_rank_tells_its_tokens() -> None:
    text = TOLD.replace(b'kv_cache_size_tokens="76800",', b"")
    assert capacities(text, 2) == [153_600, 76_800, 76_800]
    one = text.splitlines()[0].replace(b'"1200"', b'"600"')
    assert capacities(one, 1) == [76_800, 76_800]


def test_a_capacity_is_told_or_derived_from_blocks() -> None:
    blocks = TOLD.replace(b'kv_cache_size_tokens="76800",', b"")
    for text, derived in ((TOLD, False), (blocks, True)):
        report = parse_metrics(text + b"\n" + gauges(2), "a", 5.0, None)
        assert report.kv_capacity_derived is derived


def test_a_rank_whose_capacity_is_unknown_makes_that_of_the_server_unknown() -> None:
    text = TOLD.replace(b'"76800"', b'"None"').replace(b'"1200"', b'"None"', 1)
    assert capacities(text, 2) == [None, None, 76_800]
    assert capacities(TOLD.replace(b'"76800"', b'"0"'), 2) == [None, None, None]


def test_a_cache_that_cannot_be_is_unknown() -> None:
    text = TOLD.replace(b'kv_cache_size_tokens="76800",', b"")
    absurd = text.replace(b'"128"', b'"999999999999999"').replace(b'"1200"', b'"999999999999999"')
    assert capacities(absurd, 2) == [None, None, None]


def test_the_caches_of_all_ranks_where_fewer_lines_tell_them() -> None:
    one = TOLD.splitlines()[0]
    assert capacities(one, 2) == [153_600, 76_800, None]
    blocks = one.replace(b'kv_cache_size_tokens="76800",', b"")
    assert capacities(blocks, 2) == [153_600, 76_800, None]
    told = one.replace(b'num_gpu_blocks="1200"', b'num_gpu_blocks="None"')
    assert capacities(told, 2) == [None, 76_800, None], "half of it is not the whole"


@pytest.mark.parametrize(
    "written",
    [
        lambda line: line,
        lambda line: line + b" 1764504453000",
        lambda line: line + b' # {trace_id="a"} 7 1764504453.1',
        lambda line: line + b" ",
        lambda line: line.replace(b"} ", b"}\t"),
        lambda line: line.replace(b"} ", b"}  "),
        lambda line: line + b"\r",
        lambda line: line + b"\n" + line,
        lambda line: line.replace(b'"m"', b'"a} 7 \\"b\\", {"'),
        lambda line: line.replace(b"3.0", b"0.3e+1"),
    ],
    ids=["plain", "time", "example", "space", "tab", "spaces", "CR", "twice", "label", "exponent"],
)
def test_however_a_line_is_written(written: Callable[[bytes], bytes]) -> None:
    lines = [each for each in RANKS.splitlines() if b'engine="2"' in each]
    text = b"\n".join(map(written, lines)).replace(b'"2"', b'"0"') + b"\n"
    (pinned,) = parse_rank_metrics(text, ["p"], 0.0, None)
    for report in (parse_metrics(text, "p", 0.0, None), pinned):
        assert (report.running, report.waiting, report.generation_tokens_total) == (3, 0, 200)
        assert report.kv_usage == pytest.approx(0.3)
        assert report.kv_capacity_tokens == 480


def test_lines_without_labels_are_read() -> None:
    text = b"vllm:num_requests_running 1\nvllm:num_requests_waiting 2.0 1764504453000\n"
    report = parse_metrics(text, "p", 0.0, None)
    assert (report.running, report.waiting, report.kv_usage) == (1, 2, None)


@pytest.mark.parametrize("value", [b"NaN", b"+Inf", b"-1", b"50.0", b"many"])
def test_a_usage_that_is_no_fraction_is_unknown(value: bytes) -> None:
    report = parse_metrics(RANKS.replace(b" 0.1\n", b" " + value + b"\n"), "p", 0.0, None)
    assert (report.kv_usage, report.kv_usage_fullest, report.running) == (None, None, 6)


def test_what_one_rank_does_not_tell_is_unknown_of_all() -> None:
    """The sum of the others is not that of the server."""
    text = b"".join(
        line
        for line in RANKS.splitlines(keepends=True)
        if not (b'engine="1"' in line and (b"kv_cache_usage" in line or b"generation" in line))
    )
    report = parse_metrics(text, "p", 0.0, None)
    assert (report.running, report.kv_usage, report.generation_tokens_total) == (6, None, None)


def test_a_rank_without_one_of_its_gauges_is_not_idle() -> None:
    text = RANKS.replace(b'vllm:num_requests_waiting{engine="1"', b'vllm:other{engine="1"')
    with pytest.raises(BadMetrics, match="lacks vllm:num_requests_waiting of p"):
        parse_metrics(text, "p", 0.0, None)
