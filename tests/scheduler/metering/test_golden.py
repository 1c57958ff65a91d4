"""Published throughput and cost, reproduced from rate and price; and the traps told apart.

Sources: deepseek-ai/open-infra-index, day 6 (March 2025); LMSYS posts of May and July 2025;
vLLM post of 17 December 2025; SemiAnalysis InferenceX (April 2026 constants, posts of May 2026);
Vultr inference cookbook (March 2026).
"""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

import pytest

from scheduler.metering.rates import (
    MeasuredRate,
    PhaseLoad,
    RateKind,
    Stage,
    imbalance,
)

D = Decimal


def usd_per_mtok(
    tokens_per_s: str,
    usd_per_gpu_hour: str,
    gpus: int = 1,
    *,
    kind: RateKind = RateKind.TOTAL,
    stage: Stage = Stage.ALL,
) -> Decimal:
    rate = MeasuredRate(kind=kind, stage=stage, tokens_per_s=D(tokens_per_s), gpus=gpus)
    return D(rate.nano_usd_per_mtok(int(D(usd_per_gpu_hour) * 10**9))) / 10**9


def rounded(value: Decimal, like: str) -> Decimal:
    return value.quantize(D(like), ROUND_HALF_UP)


# One node of 8 H800 at $2 each; input rates include cache hits.
PREFILL = MeasuredRate(kind=RateKind.INPUT, stage=Stage.PREFILL, tokens_per_s=D(73_700), gpus=8)
DECODE = MeasuredRate(kind=RateKind.OUTPUT, stage=Stage.DECODE, tokens_per_s=D(14_800), gpus=8)


def test_deepseek_day() -> None:
    """608B input (342B of it cached), 168B output on 226.75 nodes: $87,072, and its parts."""
    price = 2 * 10**9
    prefill_nodes = D(608 * 10**9) / PREFILL.tokens_per_s / 86_400
    decode_nodes = D(168 * 10**9) / DECODE.tokens_per_s / 86_400
    assert rounded(prefill_nodes, "0.01") == D("95.48")
    assert rounded(decode_nodes, "0.01") == D("131.38")
    assert abs(prefill_nodes + decode_nodes - D("226.75")) / D("226.75") < D("0.001")
    assert D("226.75") * 8 * 24 * 2 == 87_072
    input_all = D(PREFILL.nano_usd_per_mtok(price)) / 10**9
    output = D(DECODE.nano_usd_per_mtok(price)) / 10**9
    uncached = MeasuredRate(
        kind=RateKind.UNCACHED_INPUT,
        stage=Stage.PREFILL,
        tokens_per_s=PREFILL.tokens_per_s * (608 - 342) / 608,
        gpus=8,
    )
    assert rounded(input_all, "0.0001") == D("0.0603")
    assert rounded(D(uncached.nano_usd_per_mtok(price)) / 10**9, "0.0001") == D("0.1378")
    assert round(uncached.tokens_per_s) == 32_244
    assert rounded(output, "0.0001") == D("0.3003")
    parts = 608_000 * input_all + 168_000 * output
    assert rounded(608_000 * input_all, "1") == D(36_665)
    assert rounded(168_000 * output, "1") == D(50_450)
    assert abs(parts - 87_072) / 87_072 < D("0.001")
    assert rounded(D(87_072) / (608_000 + 168_000), "0.0001") == D("0.1122")
    assert rounded(D(87_072) / 168_000, "0.0001") == D("0.5183")
    revenue = 342_000 * D("0.14") + (608_000 - 342_000) * D("0.55") + 168_000 * D("2.19")
    assert rounded(revenue, "1") == D(562_100)
    assert rounded((revenue / 87_072 - 1) * 100, "0.1") == D("545.6")


@pytest.mark.parametrize(
    ("tokens_per_s", "usd", "gpus", "published"),
    [
        ("22282", "2", 8, "0.20"),  # LMSYS, decode nodes of 96 H100
        ("288000", "2.3", 96, "0.21"),  # Kimi K2, 12 decode nodes of H200
        ("2200", "1.41", 1, "0.178"),  # vLLM wide-EP per H200, at three prices
        ("2200", "2.30", 1, "0.290"),
        ("2200", "3.00", 1, "0.379"),
    ],
)
def test_figures_of_decode_nodes(tokens_per_s: str, usd: str, gpus: int, published: str) -> None:
    rate = MeasuredRate(
        kind=RateKind.OUTPUT, stage=Stage.DECODE, tokens_per_s=D(tokens_per_s), gpus=gpus
    )
    cost = D(rate.nano_usd_per_mtok(int(D(usd) * 10**9))) / 10**9
    assert rounded(cost, published) == D(published)


def test_prefill_figures_of_the_same_posts() -> None:
    prefill = Stage.PREFILL
    cost = usd_per_mtok("52300", "2", 8, kind=RateKind.INPUT, stage=prefill)
    assert rounded(cost, "0.0001") == D("0.0850")
    cost = usd_per_mtok("224000", "2.3", 32, kind=RateKind.INPUT, stage=prefill)
    assert rounded(cost, "0.0001") == D("0.0913")


@pytest.mark.parametrize(
    ("tokens_per_s", "usd", "published"),
    [
        ("1174.5", "1.41", "0.334"),  # Kimi-K2.5 8k/1k INT4 TP8, H200
        ("1790.7", "1.95", "0.303"),  # the same, B200
        ("3879.3", "1.95", "0.140"),  # NVFP4 TP4, B200
        ("2985.6", "1.30", "0.12"),  # MiniMax-M2.5 FP8 TP8, H100
        ("2453.9", "1.41", "0.16"),  # DeepSeek-R1 FP8, H200
        ("13429.7", "1.95", "0.04"),  # DeepSeek-R1 FP4, B200
        ("18131.6", "2.652", "0.04"),  # GB300
        ("14659.4", "2.21", "0.04"),  # 1k/1k with MTP, GB200
        ("61612.7", "1.95", "0.01"),  # gpt-oss-120b, B200, H200, H100
        ("15202.1", "1.41", "0.03"),
        ("10394.0", "1.30", "0.03"),
        ("4020.9", "1.95", "0.13"),  # Kimi-K2.5, MiniMax, GLM-5, Qwen3.5-397B on B200
        ("9652.0", "1.95", "0.06"),
        ("1673.6", "1.95", "0.32"),
        ("5709.7", "1.95", "0.09"),
        ("6000", "2.65", "0.12"),  # NVIDIA, GB300
    ],
)
def test_inferencex_rows(tokens_per_s: str, usd: str, published: str) -> None:
    cost = usd_per_mtok(tokens_per_s, usd)
    # The tables were rounded from unrounded rates: two of three decimals may differ by one.
    assert abs(rounded(cost, published) - D(published)) <= D("0.001")


def steady_load(prefill: MeasuredRate, decode: MeasuredRate, input_per_output: D) -> PhaseLoad:
    """Loads at the most requests that both stages together can sustain."""
    possible = prefill.tokens_per_s / input_per_output  # output tokens whose prompts are computed
    output = min(possible, decode.tokens_per_s)
    return PhaseLoad(prefill=float(output / possible), decode=float(output / decode.tokens_per_s))


def test_an_imbalanced_pool_is_flagged() -> None:
    """Kimi K2, 4 prefill and 12 decode nodes at 2000/100: decode would run at 3.9 %."""
    prefill = MeasuredRate(
        kind=RateKind.INPUT, stage=Stage.PREFILL, tokens_per_s=D(224_000), gpus=32
    )
    decode = MeasuredRate(
        kind=RateKind.OUTPUT, stage=Stage.DECODE, tokens_per_s=D(288_000), gpus=96
    )
    load = steady_load(prefill, decode, D(20))
    assert (load.prefill, round(load.decode, 3)) == (1.0, 0.039)
    flagged = imbalance(load)
    assert flagged is not None
    assert "decode nodes run at 3.9%" in flagged
    requests_per_s = prefill.tokens_per_s / 2000
    assert requests_per_s == 112
    per_request = D(128) * D("2.3") / 3600 / requests_per_s
    assert rounded(per_request, "0.00001") == D("0.00073")
    assert rounded(per_request / 100 * 10**6, "0.01") == D("7.30")
    # DeepSeek's own day is balanced.
    day = steady_load(
        MeasuredRate(
            kind=RateKind.INPUT, stage=Stage.PREFILL, tokens_per_s=D(73_700 * 95), gpus=760
        ),
        MeasuredRate(
            kind=RateKind.OUTPUT, stage=Stage.DECODE, tokens_per_s=D(14_800 * 131), gpus=1048
        ),
        D(608) / D(168),
    )
    assert imbalance(day) is None


def test_an_idle_pool_is_not_called_imbalanced() -> None:
    assert imbalance(PhaseLoad(prefill=0.04, decode=0.001)) is None
