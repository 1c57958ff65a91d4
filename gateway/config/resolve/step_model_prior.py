"""The step model of a pool before any fit: from the catalog, or from the config.json of its model.

For an unknown model, the figures of Qwen3-30B-A3B on an H100 are used, with the number of experts
of the pool; the fit corrects them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from gateway.config.gateway import MoeShapeConfig, PoolConfig
from gateway.config.prior import KvCacheFormat
from gateway.config.problems import ConfigError, nearest, problem
from scheduler.step_time.step_model import QWEN3_30B_H100, StepModel
from simulation.catalog.deployment import in_format
from simulation.catalog.facts import ModelFacts
from simulation.catalog.gpus import GPUS, find_gpu
from simulation.catalog.hf_config import UnreadableConfig, read_config
from simulation.catalog.models import KNOWN, find_model, model_facts
from simulation.catalog.prior import Parallelism, prior

MAX_BYTES = 4 * 1024 * 1024
"""Far above any config.json, so that a file of weights named by mistake is not read."""
STAND_IN_GPU = "H100"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepModelPrior:
    """A step model, and `basis`: where it comes from, for `moegate check`."""

    step_model: StepModel
    basis: str


def read_model_dir(path: Path) -> ModelFacts:
    """Facts from a config.json or the folder that holds it. Raises UnreadableConfig."""
    file = path / "config.json" if path.is_dir() else path
    try:
        with file.open("rb") as opened:
            raw = opened.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise UnreadableConfig(f"{file}: more than {MAX_BYTES} bytes, no config.json")
        parsed = json.loads(raw)
    except OSError as error:
        raise UnreadableConfig(f"{file}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UnreadableConfig(f"{file}: no JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise UnreadableConfig(f"{file}: a JSON object is needed")
    try:
        return read_config(parsed, file.absolute().parent.name)
    except UnreadableConfig as error:
        raise UnreadableConfig(f"{file}: {error}") from None


def model_facts_of(pool: PoolConfig, base_dir: Path) -> ModelFacts | None:
    """Facts of the model of a pool; None: unknown. Raises UnreadableConfig for a file that the pool
    names."""
    stated = pool.prior
    if stated.config_json is not None:
        facts: ModelFacts | None = read_model_dir(base_dir / stated.config_json)
    elif stated.catalog is not None:
        facts = model_facts(stated.catalog) if stated.catalog in KNOWN else None
    else:
        facts = find_model(pool.upstream_model or pool.model)
    if facts is None or stated.weights is None:
        return facts
    return in_format(facts, stated.weights.value)


def step_model_prior(pool: PoolConfig, base_dir: Path) -> StepModelPrior:
    """The prior of every replica of a pool. Raises UnreadableConfig."""
    facts = model_facts_of(pool, base_dir)
    if facts is None:
        shape = pool.moe or MoeShapeConfig(
            experts=QWEN3_30B_H100.experts, experts_per_token=QWEN3_30B_H100.experts_per_token
        )
        return StepModelPrior(
            step_model=replace(
                QWEN3_30B_H100, experts=shape.experts, experts_per_token=shape.experts_per_token
            ),
            basis="Qwen3-30B-A3B on H100, for want of the model's facts: see prior",
        )
    gpu = find_gpu(pool.gpu.type)
    tensor = max(1, pool.gpu.count // pool.data_parallel_ranks)
    spread = Parallelism(
        tensor=tensor,
        data=pool.data_parallel_ranks,
        expert_parallel=pool.data_parallel_ranks > 1,
    )
    kv_bytes = 1.0 if pool.prior.kv_cache is KvCacheFormat.FP8 else 2.0
    model = prior(facts, gpu or GPUS[STAND_IN_GPU], spread, kv_value_bytes=kv_bytes)
    if pool.moe is not None:
        model = replace(
            model, experts=pool.moe.experts, experts_per_token=pool.moe.experts_per_token
        )
    named = gpu.name if gpu else f"{STAND_IN_GPU} for want of figures of {pool.gpu.type}"
    return StepModelPrior(step_model=model, basis=f"{facts.name} on {spread.gpus} x {named}")


def checked_step_model_prior(pool: PoolConfig, base_dir: Path) -> StepModelPrior:
    """The same. Raises ConfigError, its paths relative to the pool."""
    stated = pool.prior
    if stated.catalog is not None and stated.catalog not in KNOWN:
        guess = nearest(stated.catalog, KNOWN)
        fix = f"did you mean {guess}?" if guess else "see `moegate inspect --list`"
        raise _error("prior.catalog", stated.catalog, "no model of the catalog", fix)
    if stated.catalog is not None and stated.config_json is not None:
        message = "the catalog's model and a config.json: which holds?"
        raise _error("prior.config_json", stated.config_json, message, "leave one out")
    try:
        return step_model_prior(pool, base_dir)
    except UnreadableConfig as error:
        fix = "name the config.json that is beside the model's weights"
        raise _error("prior.config_json", str(stated.config_json), str(error), fix) from None


def _error(path: str, value: str, message: str, fix: str) -> ConfigError:
    return ConfigError("prior", [problem(path, value, message, fix)])
