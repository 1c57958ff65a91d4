"""Records the metrics of a real prefill/decode pair, whose KV caches travel by NIXL.

    python -m tests.vllm.record_pair_golden tests/golden/vllm_0_32

starts two servers of the tiny model with vLLM's NIXL connector, sends prompts through both as its
example proxy does, and writes `metrics_pair_prefill.txt` and `metrics_pair_decode.txt`. vLLM's
environment needs NIXL, which needs no GPU: `pip install --no-deps nixl nixl-cu12`.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from moegate.simulated_vllm.pair.proxy import ASKED_TO_PREFILL
from tests.vllm.launch import HOST, VllmProcess, running_vllm

PROMPTS = (40, 300, 300, 1000, 2000, 4000, 4000, 7000)
CONNECTOR = {"kv_connector": "NixlConnector", "kv_role": "kv_both", "kv_buffer_device": "cpu"}
FLAGS = (f"--kv-transfer-config={json.dumps(CONNECTOR)}",)
SIDE_CHANNELS = ("5600", "5700")
LIMIT_S = 300.0


def post(server: VllmProcess, **fields: Any) -> dict[str, Any]:
    """The answer of a completion."""
    body = {"model": server.model, "temperature": 0.0, "ignore_eos": True} | fields
    headers = {"Content-Type": "application/json"}
    request = Request(f"{server.base_url}/v1/completions", json.dumps(body).encode(), headers)
    with urlopen(request, timeout=LIMIT_S) as response:
        answer: dict[str, Any] = json.load(response)
        return answer


def page(server: VllmProcess) -> str:
    """The lines of vLLM's own series."""
    with urlopen(f"{server.base_url}/metrics", timeout=LIMIT_S) as response:
        lines = response.read().decode().splitlines()
    return "".join(f"{line}\n" for line in lines if "vllm:" in line)


def main(folder: Path) -> None:
    """Writes both pages."""
    rng = random.Random(3)
    os.environ["VLLM_NIXL_SIDE_CHANNEL_HOST"] = HOST
    with tempfile.TemporaryDirectory() as logs:
        os.environ["VLLM_NIXL_SIDE_CHANNEL_PORT"] = SIDE_CHANNELS[0]
        with running_vllm(Path(logs), FLAGS) as prefill:
            os.environ["VLLM_NIXL_SIDE_CHANNEL_PORT"] = SIDE_CHANNELS[1]
            with running_vllm(Path(logs), FLAGS) as decode:
                for tokens in PROMPTS:
                    prompt = [rng.randrange(100, 1990) for _ in range(tokens)]
                    handed_over = post(
                        prefill, prompt=prompt, max_tokens=1, kv_transfer_params=ASKED_TO_PREFILL
                    )["kv_transfer_params"]
                    post(decode, prompt=prompt, max_tokens=8, kv_transfer_params=handed_over)
                for server, stage in ((prefill, "prefill"), (decode, "decode")):
                    (folder / f"metrics_pair_{stage}.txt").write_text(page(server))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
