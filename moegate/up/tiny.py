"""`--tiny`: a random-weight MoE of a few megabytes, which vLLM's CPU build serves without a GPU."""

from __future__ import annotations

from pathlib import Path

from gateway.config.gateway import MoeShapeConfig
from moegate.up.launch import Launch
from moegate.up.machine import REPOSITORY, CannotLaunch, environment_for, python_of
from moegate.up.process import running

NAME = "tiny-moe"
MODEL_DIR = REPOSITORY / ".cache" / NAME
SCRIPT = REPOSITORY / "vllm_cpu" / "tiny_moe.py"
MOE = MoeShapeConfig(experts=16, experts_per_token=4)
"""Shape of the model that SCRIPT makes."""
CONTEXT_TOKENS, SEQUENCES = 8192, 32
FLAGS = (
    "--dtype=bfloat16",
    "--enforce-eager",
    "--num-gpu-blocks-override=600",  # 76,800 tokens of KV cache
    "--enable-auto-tool-choice",
    "--tool-call-parser=hermes",
    "--tool-strict-level=parameter",
)
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # On two cores a second thread competes with the API server, which makes it ten times slower.
    "OMP_NUM_THREADS": "1",
}


def tiny_launch(
    *,
    served_model_name: str | None,
    max_model_len: int | None,
    max_num_seqs: int | None,
    engine_feed: bool = True,
    count_experts: bool = False,
    flags: tuple[str, ...],
) -> Launch:
    """The launch of the tiny model. Raises CannotLaunch outside a checkout."""
    if not SCRIPT.is_file():
        raise CannotLaunch(
            f"--tiny needs moegate's repository: {SCRIPT}, which makes the model, is not there;"
            " run it from a checkout, or name a model"
        )
    return Launch(
        model=str(MODEL_DIR),
        served_model_name=served_model_name or NAME,
        max_model_len=max_model_len or CONTEXT_TOKENS,
        max_num_seqs=max_num_seqs or SEQUENCES,
        engine_feed=engine_feed,
        count_experts=count_experts,
        flags=(*FLAGS, *flags),
        environment=ENVIRONMENT,
    )


async def build_model(vllm: Path, log: Path) -> None:
    """Makes the model with vLLM's Python, unless it exists. Raises CannotLaunch."""
    python = python_of(vllm)
    environment = environment_for(vllm, ENVIRONMENT)
    with running([str(python), str(SCRIPT), str(MODEL_DIR)], log, environment) as process:
        status = await process.wait()
        if status != 0:
            raise CannotLaunch(f"{SCRIPT.name} ended with {status}\n{process.failure()}")
