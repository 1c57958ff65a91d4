"""`moegate inspect` and `moegate plan` as they are typed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from moegate.cli.main import main
from simulation.catalog.models import KNOWN

PNG_MAGIC = b"\x89PNG\r\n"
QWEN = ("plan", "Qwen/Qwen3-30B-A3B", "--gpu", "H100-80GB")


def test_inspect_shows_the_facts_and_a_deployment_per_gpu(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["inspect", "deepseek-ai/DeepSeek-V3.2"]) == 0
    out = capsys.readouterr().out
    assert "671.9 B" in out
    assert "70,272 bytes" in out
    for gpu in ("H100", "H200", "H800", "B200", "GB200", "MI300X", "MI355X"):
        assert gpu in out


def test_inspect_reads_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(KNOWN["gpt-oss-20b"].config))
    assert main(["inspect", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["total_parameters"] == pytest.approx(20.9e9, rel=0.015)
    assert told["kv_bytes_per_late_token"] == 24_576
    assert told["touch_all_batch"] == pytest.approx(22, abs=1)
    by_gpu = {row["gpu"]: row for row in told["deployments"]}
    assert by_gpu["H100"]["tensor_parallel"] == 1


def test_inspect_with_other_formats(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "MiniMax-M2.5", "--weights", "nvfp4", "--kv-cache-dtype", "fp8"]) == 0
    assert "126,976 bytes" in capsys.readouterr().out


def test_flags_of_vllm_move_the_kv_cache_and_its_range_is_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def kv_tokens(*flags: str) -> tuple[int, int, int]:
        assert main(["inspect", "gpt-oss-120b", "--json", *flags]) == 0
        rows = json.loads(capsys.readouterr().out)["deployments"]
        h200 = next(row for row in rows if row["gpu"] == "H200")
        return h200["kv_least_tokens"], h200["kv_capacity_tokens"], h200["kv_most_tokens"]

    least, usual, most = kv_tokens()
    assert 0 < least < usual < most
    assert kv_tokens("--gpu-memory-utilization", "0.8")[1] < 0.85 * usual
    assert kv_tokens("--max-num-batched-tokens", "131072")[1] < 0.95 * usual
    assert kv_tokens("--kv-cache-dtype", "fp8")[1] == pytest.approx(2 * usual, rel=1e-3)
    assert kv_tokens("--kv-cache-dtype", "auto")[1] == usual


@pytest.mark.parametrize(
    "flags",
    [("--gpu-memory-utilization", "1.2"), ("--gpu-memory-utilization", "nan"),
     ("--max-num-batched-tokens", "0"), ("--kv-cache-dtype", "int3")],
)  # fmt: skip
def test_flags_of_vllm_are_bounded(
    capsys: pytest.CaptureFixture[str], flags: tuple[str, str]
) -> None:
    with pytest.raises(SystemExit):
        main(["inspect", "gpt-oss-120b", *flags])
    assert flags[0] in capsys.readouterr().err


def test_a_plan_shows_the_range_of_the_kv_cache(capsys: pytest.CaptureFixture[str]) -> None:
    asked = (*QWEN, "--prompt-tokens", "900", "--output-tokens", "200", "--requests-per-s", "1")
    assert main([*asked, "--gpu-memory-utilization", "0.85"]) == 0
    assert "--gpu-memory-utilization 0.85" in capsys.readouterr().out
    assert main([*asked, "--json"]) == 0
    range_tokens = json.loads(capsys.readouterr().out)["kv_capacity_tokens"]
    assert range_tokens["least"] < range_tokens["tokens"] < range_tokens["most"]


def test_inspect_lists_the_catalog(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in KNOWN)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("inspect",), 2, "name a model"),
        (("inspect", "nobody/nothing"), 1, "no folder, no file, and no model"),
        ((*QWEN, "--requests-per-s", "1"), 1, "one of --workload, --trace and --prompt-tokens"),
        ((*QWEN, "--workload", "agents"), 1, "--requests-per-s is needed"),
        ((*QWEN, "--prompt-tokens", "9", "--requests-per-s", "1"), 1, "--output-tokens"),
        ((*QWEN, "--trace", "/nowhere.csv"), 1, "No such file"),
        (("plan", "GLM-5", "--gpu", "Abacus", "--workload", "agents"), 1, "not among H100"),
        (("plan", "nothing", "--gpu", "H100", "--workload", "agents"), 1, "no model of the"),
        (
            (*QWEN, "--gpus", "4", "--data-parallel-size", "3", "--prompt-tokens", "9",
             "--output-tokens", "9", "--requests-per-s", "1"), 1, "shared evenly",
        ),
        (
            (*QWEN, "--prompt-tokens", "999999", "--output-tokens", "9", "--requests-per-s", "1"),
            1, "more GPUs per replica",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_says_why(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], status: int, message: str
) -> None:
    assert main(list(arguments)) == status
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("remote", ["a", "a=1", "a=1,2,3,4", "=1,2", "a=1,x", "a=-1,2"])
def test_a_remote_price_has_a_form(capsys: pytest.CaptureFixture[str], remote: str) -> None:
    with pytest.raises(SystemExit):
        main([*QWEN, "--remote", remote])
    assert "NAME=IN,CACHED,OUT is needed" in capsys.readouterr().err


def test_a_plan_in_tables_json_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "plan.png"
    arguments = [
        *(*QWEN, "--usd-per-gpu-hour", "2.10", "--workload", "azure-conversation"),
        *("--requests-per-s", "40", "--remote", "api=0.10,0.05,0.30"),
    ]
    assert main([*arguments, "--png", str(picture)]) == 0
    out = capsys.readouterr().out
    for words in ("replicas needed", "saturated floor", "break-even", "overflow", "$/M output"):
        assert words in out
    assert picture.read_bytes().startswith(PNG_MAGIC)
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    best = told["hybrids"][0]["best"]
    assert 0 < best["overflow_share"] < 1
    least = min(
        row["own_usd_per_hour"] + row["remote_usd_per_hour"]
        for row in told["hybrids"][0]["choices"]
    )
    assert best["own_usd_per_hour"] + best["remote_usd_per_hour"] == least
    assert told["replicas_for_mean"] * told["capacity"]["requests_per_s"] >= 40
    assert told["loads"][-1]["costs"]["all_tokens"] >= told["floor"]["all_tokens"]


def test_speculation_pays_at_small_batches(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        *(*QWEN, "--prompt-tokens", "100", "--output-tokens", "400", "--requests-per-s", "1"),
        *("--tpot-s", "0.004", "--json"),
    ]
    assert main(arguments) == 1  # a lone sequence is slower than that
    assert main([*arguments, "--draft-tokens", "2", "--acceptance", "0.8"]) == 0
    capsys.readouterr()


def test_a_trace_tells_its_own_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "trace.csv"
    rows = [f"2023-11-16 18:{minute:02}:{second:02}.0000000,1000,100"
            for minute in range(10) for second in range(0, 60, 2)]  # fmt: skip
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows))
    assert main([*QWEN, "--trace", str(trace), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["demand"]["mean_requests_per_s"] == pytest.approx(0.5, rel=0.02)
    assert told["demand"]["lengths"]["prompt_tokens"] == 1000
    assert told["floor"] is None  # no price was given


def test_without_matplotlib_the_line_that_installs_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert (
        main(
            [*(*QWEN, "--prompt-tokens", "100", "--output-tokens", "10"),
             *("--requests-per-s", "1", "--png", str(tmp_path / "plan.png"))]
        ) == 1
    )  # fmt: skip
    assert "pip install 'moegate[plots]'" in capsys.readouterr().err
