"""Records which tokens vLLM's own scheduler chooses in each step while its KV cache is too small.

    $MOEGATE_VLLM_VENV/bin/python -m tests.vllm.scheduler_steps \
        tests/golden/vllm_0_32/scheduler_steps.json

Runs inside vLLM's environment, without an engine: tokens are made up. A case is the size, the
requests [name, step of arrival, first prompt token, prompt tokens, output tokens], and a row for
each step: [tokens by request, names preempted, running, waiting, free blocks].
`tests/simulation/test_vllm_scheduler.py` plays the cases on the simulated engines.
"""

# mypy: ignore-errors
# Its imports are those of vLLM's environment.

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import torch
from vllm.config import CacheConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

LONGEST_TOKENS = 64
MODEL = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 2_000_000,
    "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6, "hidden_act": "silu", "torch_dtype": "float32",
}  # fmt: skip


def drawn(rng: random.Random, block_size: int) -> dict[str, object]:
    """A size and a load; prompts begin alike now and then where blocks have several tokens."""
    size = {
        "sequences": rng.randint(2, 6),
        "step_tokens": rng.randint(8, 40),
        "blocks": rng.randint(68, 110) // block_size,
        "block_size": block_size,
    }
    load, at = [], 0
    for number in range(rng.randint(5, 12)):
        at += rng.randint(0, 3)
        shared = block_size > 1 and rng.random() < 0.4
        first = 100 * rng.randint(0, 3) if shared else 1000 + 100 * number
        load.append([f"r{number}", at, first, rng.randint(1, 40), rng.randint(4, 24)])
    return {"size": size, "load": load}


def scheduler(size: dict[str, int], model: str) -> Scheduler:
    """vLLM's scheduler of one layer of full attention."""
    blocks, block_size = size["blocks"] + 1, size["block_size"]  # one block is never given out
    cache = CacheConfig(block_size=block_size, enable_prefix_caching=True)
    cache.num_gpu_blocks = blocks
    config = VllmConfig(
        model_config=ModelConfig(
            model=model, skip_tokenizer_init=True, dtype="float32", max_model_len=LONGEST_TOKENS
        ),
        scheduler_config=SchedulerConfig(
            max_num_seqs=size["sequences"],
            max_num_batched_tokens=size["step_tokens"],
            max_model_len=LONGEST_TOKENS,
            enable_chunked_prefill=True,
            is_encoder_decoder=False,
            async_scheduling=False,
        ),
        cache_config=cache,
    )
    spec = FullAttentionSpec(
        block_size=block_size, num_kv_heads=1, head_size=1, dtype=torch.float32
    )
    groups = [KVCacheGroupSpec(["layer"], spec)]
    kv_cache = KVCacheConfig(num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=groups)
    return Scheduler(config, kv_cache, StructuredOutputManager(config), block_size)


def steps(case: dict, model: str) -> list[list[object]]:
    """A row for each step until all requests have ended."""
    chosen = scheduler(case["size"], model)
    hasher = get_request_block_hasher(case["size"]["block_size"], sha256)
    due = defaultdict(list)
    for name, at, first, prompt_tokens, output_tokens in case["load"]:
        params = SamplingParams(max_tokens=output_tokens, ignore_eos=True, temperature=0)
        ids = list(range(first, first + prompt_tokens))
        due[at].append(Request(name, ids, params, None, block_hasher=hasher))
    rows: list[list[object]] = []
    while due or chosen.has_unfinished_requests():
        for request in due.pop(len(rows), ()):
            chosen.add_request(request)
        out = chosen.schedule()
        tokens = dict(out.num_scheduled_tokens)
        rows.append(
            [
                tokens,
                sorted(out.preempted_req_ids or ()),
                [request.request_id for request in chosen.running],
                [request.request_id for request in chosen.waiting],
                chosen.kv_cache_manager.block_pool.get_num_free_blocks(),
            ]
        )
        sampled = []
        for name in tokens:
            request = chosen.requests[name]
            caught_up = request.num_computed_tokens >= request.num_tokens
            number = 10_000 + 1000 * int(name[1:]) + request.num_output_tokens
            sampled.append([number] if caught_up else [])
        numbers = {name: index for index, name in enumerate(tokens)}
        chosen.update_from_output(out, ModelRunnerOutput(list(tokens), numbers, sampled))
    return rows


def main() -> None:
    """Writes the cases in which something is preempted."""
    init_none_hash(sha256)
    rng, cases = random.Random(3), []
    with tempfile.TemporaryDirectory() as model:
        (Path(model) / "config.json").write_text(json.dumps(MODEL))
        for number in range(60):
            case = drawn(rng, 1 if number % 2 else 4)
            case["steps"] = steps(case, model)
            if any(row[1] for row in case["steps"]):
                cases.append(case)
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    Path(sys.argv[1]).write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
