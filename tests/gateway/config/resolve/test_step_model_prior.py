"""The step model that a pool of the configuration starts with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.config.gateway import GpuConfig, MoeShapeConfig, PoolConfig, ReplicaConfig
from gateway.config.load.file import ConfigError, parse
from gateway.config.prior import KvCacheFormat, PriorConfig, WeightFormat
from gateway.config.resolve.step_model_prior import step_model_prior
from scheduler.step_time.step_model import QWEN3_30B_H100
from simulation.catalog.models import KNOWN

NOWHERE = Path("/nowhere")


def pool(
    model: str, gpus: int = 8, ranks: int = 1, gpu: str = "H200", **rest: object
) -> PoolConfig:
    return PoolConfig(
        name="p",
        model=model,
        replicas=(ReplicaConfig(name="a", url="http://127.0.0.1:1"),),
        gpu=GpuConfig(type=gpu, count=gpus),
        data_parallel_ranks=ranks,
        **rest,  # type: ignore[arg-type]
    )


def test_a_known_model_brings_its_own_figures() -> None:
    found = step_model_prior(pool("deepseek-ai/DeepSeek-V3"), NOWHERE)
    assert found.basis == "DeepSeek-V3 on 8 x H200"
    assert (found.step_model.experts, found.step_model.experts_per_token) == (256, 8)
    ranks = step_model_prior(pool("deepseek-ai/DeepSeek-V3", ranks=8), NOWHERE).step_model
    assert ranks.ranks == 8
    assert ranks.expert_s == found.step_model.expert_s


def test_formats_change_what_is_read() -> None:
    plain = step_model_prior(pool("GLM-4.5"), NOWHERE).step_model
    narrow = step_model_prior(
        pool("GLM-4.5", prior=PriorConfig(weights=WeightFormat.FP8, kv_cache=KvCacheFormat.FP8)),
        NOWHERE,
    ).step_model
    assert narrow.expert_s == plain.expert_s / 2
    assert narrow.kv_token_s == plain.kv_token_s / 2


def test_an_unknown_model_gets_the_stand_in_with_its_own_experts() -> None:
    found = step_model_prior(
        pool("mine", moe=MoeShapeConfig(experts=16, experts_per_token=4)), NOWHERE
    )
    assert (found.step_model.experts, found.step_model.experts_per_token) == (16, 4)
    assert found.step_model.base_s == QWEN3_30B_H100.base_s
    assert "want of the model's facts" in found.basis


def test_an_unknown_gpu_is_named() -> None:
    assert (
        "want of figures of Abacus" in step_model_prior(pool("GLM-5", gpu="Abacus"), NOWHERE).basis
    )


def test_a_config_json_is_read_from_the_folder_of_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(KNOWN["GLM-4.5-Air"].config))
    found = step_model_prior(pool("air", prior=PriorConfig(config_json="model")), tmp_path)
    assert found.step_model.experts == 128
    assert found.basis.startswith("model on 8 x H200")


@pytest.mark.parametrize(
    ("prior", "path", "message"),
    [
        ("{catalog: DeepSeek-V4}", "pools[0].prior.catalog", "did you mean DeepSeek-V3"),
        ("{config_json: nothing}", "pools[0].prior.config_json", "No such file"),
        ("{catalog: GLM-5, config_json: x}", "pools[0].prior.config_json", "leave one out"),
        ("{config_json: empty.json}", "pools[0].prior.config_json", "num_hidden_layers: absent"),
        ("{config_json: text.json}", "pools[0].prior.config_json", "no JSON"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, prior: str, path: str, message: str) -> None:
    (tmp_path / "empty.json").write_text("{}")
    (tmp_path / "text.json").write_text("weights")
    text = f"""
pools:
  - name: p
    model: m
    replicas: [{{name: a, url: "http://127.0.0.1:1"}}]
    gpu: {{type: H100, count: 1}}
    prior: {prior}
"""
    with pytest.raises(ConfigError) as caught:
        parse(text, "test.yaml", tmp_path)
    (problem,) = caught.value.problems
    assert problem.path == path
    assert message in f"{problem.message} {problem.fix}"
