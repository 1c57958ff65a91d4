"""Settings of a simulated vLLM; the defaults are Qwen3-30B-A3B in BF16 on one H100."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from moegate.simulated_vllm.connector.transfers import KvConnector
from moegate.simulated_vllm.faults.kinds import NO_FAULTS, Faults
from scheduler.step_time.step_model import QWEN3_30B_H100, StepModel
from simulation.engine.engine_config import EngineConfig
from simulation.engine.physics import ExpertLoad
from simulation.output import MEAN_ANSWER_TOKENS

DEFAULT_MODEL = "Qwen3-30B-A3B"
UNIFORM = ExpertLoad()


class ModelTask(enum.StrEnum):
    """What the model does: generate, embed (and score by vectors), or score pairs of texts."""

    GENERATE = "generate"
    EMBED = "embed"
    SCORE = "score"


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedVllmConfig:
    """Settings of the server. Fields are named like vLLM's flags where vLLM has the flag.

    Attributes:
        port: 0 takes a free one.
        data_parallel_size: ranks that step together; each has its own batch and KV cache.
        max_num_queued_reqs: running and waiting sequences above which requests get a 503.
        speed: a step takes 1 / `speed` of its time; metrics report the time that passed.
        stream_interval: tokens in a chunk; a request may ask for more.
        lora_modules: names and paths of the LoRA adapters that are loaded at the start.
        max_loras: adapters that a rank computes in one batch.
        mean_answer_tokens: mean length of an answer without a stop by the caller.
        enable_per_request_metrics: whether an answer tells how long the engine worked on it.
        reasoning_parser: name of a parser; reasoning is then told apart from the answer. Whatever
            the name, the model thinks between tags like Qwen3. None: it does not think.
        task: what the model does, which decides about its routes.
        matryoshka: a model that embeds can shorten its vectors.
        tool_calls: tools that are called where a chat offers them and has no result yet, each with
            its arguments as JSON text.
        faults: the injected faults.
        expert_load: how tokens fall on the experts.
        count_experts: whether the feed tells the experts of each step.
        kv_connector: how a prompt's KV cache comes from another engine; None: at once, and nothing
            tells of it.
    """

    host: str = "127.0.0.1"
    port: int = 0
    served_model_name: str = DEFAULT_MODEL
    max_model_len: int = 32_768
    data_parallel_size: int = 1
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    num_gpu_blocks: int = 6144
    block_size: int = 16
    seed: int = 0
    speed: float = 1.0
    noise_sigma: float = 0.05
    max_num_queued_reqs: int | None = None
    api_key: str | None = None
    enable_prompt_tokens_details: bool = False
    stream_interval: int = 1
    enable_lora: bool = False
    lora_modules: tuple[tuple[str, str], ...] = ()
    max_loras: int = 1
    mean_answer_tokens: float = MEAN_ANSWER_TOKENS
    enable_per_request_metrics: bool = False
    reasoning_parser: str | None = None
    tool_calls: tuple[tuple[str, str], ...] = ()
    task: ModelTask = ModelTask.GENERATE
    matryoshka: bool = False
    step_model: StepModel = QWEN3_30B_H100
    faults: Faults = NO_FAULTS
    expert_load: ExpertLoad = UNIFORM
    count_experts: bool = False
    kv_connector: KvConnector | None = None

    def __post_init__(self) -> None:
        if self.speed <= 0:
            raise ValueError(f"speed must be above 0, not {self.speed}")
        if self.stream_interval < 1:
            raise ValueError(f"stream_interval must be at least 1, not {self.stream_interval}")
        if self.lora_modules and not self.enable_lora:
            raise ValueError("lora_modules needs enable_lora")

    def engine_config(self) -> EngineConfig:
        """Raises ValueError on sizes that contradict each other."""
        return EngineConfig(
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=max(self.max_num_batched_tokens, self.max_num_seqs),
            num_gpu_blocks=self.num_gpu_blocks,
            block_size=self.block_size,
            # The engine makes a token of each prompt, also where vLLM generates nothing.
            max_model_len=self.max_model_len + (self.task is not ModelTask.GENERATE),
            noise_sigma=self.noise_sigma,
            ranks=self.data_parallel_size,
            max_loras=self.max_loras,
        )

    def scaled_step_model(self) -> StepModel:
        """The step model with all times divided by `speed`."""
        slower = 1.0 / self.speed
        return self.step_model.scaled(
            base=slower, experts=slower, sequences=slower, kv=slower, prefill=slower
        )
