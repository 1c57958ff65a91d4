"""The command line of vLLM: what the gateway needs, what was asked for, and what is refused.

Checked against vLLM 0.32.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from moegate.up.machine import HOST, CannotLaunch

KEY_VARIABLE = "VLLM_API_KEY"
"""vLLM reads its own key from it: without one, other users of the machine could go around the
gateway, its keys and its limits."""
SHUTDOWN_TIMEOUT_S = 20
"""Without --shutdown-timeout vLLM leaves its open streams silent for ever when it is stopped."""
DEFAULT_MAX_NUM_SEQS = 256
"""vLLM's own default depends on the GPU; the gateway must know how many a rank runs at once."""
KV_EVENTS_TOPIC = "kv-events"
OWN_FLAGS = {
    **dict.fromkeys(("--host", "--port", "--uds", "--grpc", "--api-key"), "moegate sets it itself"),
    **dict.fromkeys(("--shutdown-timeout", "--kv-events-config"), "moegate sets it itself"),
    **dict.fromkeys(("--ssl-keyfile", "--ssl-certfile"), "the gateway calls vLLM over loopback"),
    **dict.fromkeys(
        (
            *("--served-model-name", "--max-model-len", "--max-num-seqs"),
            *("--data-parallel-size", "--tensor-parallel-size", "--enable-expert-parallel"),
        ),
        "give it before the --, to moegate, which must know it too",
    ),
}
"""Flags of vLLM that may not come from behind the --, and why."""
_SHORT = {
    "-dp": "--data-parallel-size",
    "-tp": "--tensor-parallel-size",
    "-ep": "--enable-expert-parallel",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What vLLM shall serve, and how.

    Attributes:
        flags: further flags of `vllm serve`, handed on as they are.
        environment: additions to the environment.
    """

    model: str
    served_model_name: str
    data_parallel_size: int = 1
    tensor_parallel_size: int = 1
    expert_parallel: bool = False
    max_model_len: int | None = None
    max_num_seqs: int = DEFAULT_MAX_NUM_SEQS
    flags: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def gpus(self) -> int:
        """GPUs that it takes, when each rank takes one."""
        return self.data_parallel_size * self.tensor_parallel_size

    def command(self, vllm: Path, port: int, kv_events_port: int) -> list[str]:
        """The whole command line. Ranks publish on `kv_events_port` and those that follow it, and
        replay on the ports after these."""
        address, ranks = f"tcp://[::ffff:{HOST}]", self.data_parallel_size
        kv_events = {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            # vLLM binds only addresses that hold "*" or "::", and connects to others; this one is
            # 127.0.0.1 in IPv6's notation. Events hold token ids: nothing for the network.
            "endpoint": f"{address}:{kv_events_port}",
            "replay_endpoint": f"{address}:{kv_events_port + ranks}",
            "topic": KV_EVENTS_TOPIC,
        }
        command = [str(vllm), "serve", self.model, f"--host={HOST}", f"--port={port}"]
        command += [f"--served-model-name={self.served_model_name}"]
        command += ["--enable-prompt-tokens-details", f"--shutdown-timeout={SHUTDOWN_TIMEOUT_S}"]
        command += [f"--kv-events-config={json.dumps(kv_events)}"]
        command += [f"--max-num-seqs={self.max_num_seqs}"]
        if self.max_model_len is not None:
            command += [f"--max-model-len={self.max_model_len}"]
        if self.data_parallel_size > 1:
            command += [f"--data-parallel-size={self.data_parallel_size}"]
        if self.tensor_parallel_size > 1:
            command += [f"--tensor-parallel-size={self.tensor_parallel_size}"]
        if self.expert_parallel:
            command += ["--enable-expert-parallel"]
        return [*command, *self.flags]


def check_flags(flags: Sequence[str]) -> None:
    """Refuses flags that would part vLLM from what the gateway knows. Raises CannotLaunch."""
    for flag in flags:
        name = flag.partition("=")[0].replace("_", "-")
        name = _SHORT.get(name, name)
        if name in OWN_FLAGS:
            written = flag.partition("=")[0]  # a value may be a secret
            raise CannotLaunch(f"{written} behind the --: {OWN_FLAGS[name]}")


def default_name(model: str) -> str:
    """Name that clients use: the last part of a folder's path, else the model as it was given."""
    return Path(model).resolve().name if Path(model).is_dir() else model
