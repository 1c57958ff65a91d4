"""The two fleets of the laboratory, their SLOs, and the truth that no policy sees."""

from __future__ import annotations

from dataclasses import dataclass, replace

from scheduler.step_time.step_model import StepModel
from simulation.catalog.gpus import find_gpu
from simulation.catalog.models import find_model
from simulation.catalog.prior import Constants, Parallelism, prior
from simulation.decider import SimulatedPlacement
from simulation.engine.engine import Engine
from simulation.engine.engine_config import EngineConfig
from simulation.engine.physics import ExpertLoad, Physics, perturbed

BLOCK_TOKENS = 16
NOISE_SIGMA = 0.1
POPULARITY_ZIPF = 0.6
LEAST_TTFT_S = 2.0
SOLO_PREFILLS = 3.0
"""SLO of the study: TTFT <= max(2 s, 3 x the prefill of the prompt alone)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabFleet:
    """Equal replicas of one model.

    Attributes:
        tpot_s: limit of the mean time per output token.
        step_model: prior from the data sheets, what policies know.
        kv_tokens: KV cache of a replica.
        usd_per_gpu_hour: price of a GPU; the same for all policies, so only ratios count.
    """

    name: str
    model: str
    replicas: int
    gpus: int
    usd_per_gpu_hour: float
    tpot_s: float
    step_model: StepModel
    kv_tokens: int
    max_running: int = 256

    @property
    def longest_tokens(self) -> int:
        """Most tokens of one sequence: what the KV cache holds beside a little."""
        return int(self.kv_tokens * 0.95)

    @property
    def usd_per_s(self) -> float:
        """Price of one powered replica."""
        return self.gpus * self.usd_per_gpu_hour / 3600.0

    def of(self, replicas: int) -> LabFleet:
        """The same with another number of replicas."""
        return replace(self, replicas=replicas)

    def truth(self, seed: int) -> StepModel:
        """What the engines really need: every coefficient off by up to 1.5 x."""
        return perturbed(self.step_model, seed=7000 + seed)

    def placements(self, seed: int, block_tokens: int) -> list[SimulatedPlacement]:
        """The engines, new. `block_tokens`: of the prefix blocks of the trace."""
        physics = Physics(self.truth(seed), ExpertLoad(zipf_exponent=POPULARITY_ZIPF))
        config = EngineConfig(
            max_num_seqs=self.max_running,
            max_num_batched_tokens=8192,
            num_gpu_blocks=self.kv_tokens // BLOCK_TOKENS,
            block_size=BLOCK_TOKENS,
            max_model_len=self.longest_tokens,
            noise_sigma=NOISE_SIGMA,
            extent_blocks=block_tokens // BLOCK_TOKENS,
        )
        return [
            SimulatedPlacement(f"{self.name}-{i}", Engine(config, physics, seed * 1000 + i))
            for i in range(self.replicas)
        ]

    def ttft_slo_s(self, truth: StepModel, prompt_tokens: int) -> float:
        """Limit of the time to first token."""
        alone_s = truth.prefill_time_s(prompt_tokens, prompt_tokens)
        return max(LEAST_TTFT_S, SOLO_PREFILLS * alone_s)


CONSTANTS = Constants(bandwidth_share=0.8, prefill_share=0.3, layer_s=65e-6)
"""Fixed, like the KV tokens: the runs of docs/policies.md stay comparable with each other."""


def _fleet(
    name: str,
    model: str,
    gpu: str,
    *,
    gpus: int,
    replicas: int,
    usd: float,
    tpot_s: float,
    kv_tokens: int,
) -> LabFleet:
    facts, card = find_model(model), find_gpu(gpu)
    if facts is None or card is None:
        raise ValueError(f"{model} on {gpu} is not in the catalog")
    spread = Parallelism(tensor=gpus)
    return LabFleet(
        name=name,
        model=model,
        replicas=replicas,
        gpus=gpus,
        usd_per_gpu_hour=usd,
        tpot_s=tpot_s,
        step_model=replace(prior(facts, card, spread, constants=CONSTANTS), ranks=1),
        kv_tokens=kv_tokens,
    )


FLEETS = {
    "qwen": _fleet(
        "qwen",
        "Qwen3-30B-A3B",
        "H100",
        gpus=1,
        replicas=8,
        usd=2.5,
        tpot_s=0.050,
        kv_tokens=90_903,
    ),
    "deepseek": _fleet(
        "deepseek",
        "DeepSeek-V3",
        "H200",
        gpus=8,
        replicas=4,
        usd=3.5,
        tpot_s=0.080,
        kv_tokens=580_461,
    ),
}
