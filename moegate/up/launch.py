"""The command line of vLLM: flags that the gateway needs, flags of the user, and refused flags.

Checked against vLLM 0.32 and 0.33.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from moegate.up.engine_plugin import FLAGS as PLUGIN_FLAGS
from moegate.up.machine import HOST, CannotLaunch

KEY_VARIABLE = "VLLM_API_KEY"
"""vLLM reads its key from this variable. Without a key, other users of the machine could call vLLM
directly and bypass the gateway's keys and limits."""
SHUTDOWN_TIMEOUT_S = 20
"""Without --shutdown-timeout, vLLM neither ends nor continues its open streams when it stops."""
DEFAULT_MAX_NUM_SEQS = 256
"""Explicit, because vLLM's default depends on the GPU and the gateway must know the value."""
KV_EVENTS_TOPIC = "kv-events"
TIMES_FLAG = "--enable-per-request-metrics"
"""vLLM tells how long it worked on a request, for its cost. It does not start with this flag and
NO_STATISTICS_FLAG."""
NO_STATISTICS_FLAG = "--disable-log-stats"
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
"""Flags of vLLM that are refused behind the --, with the reason."""
RUST_VARIABLE = "VLLM_USE_RUST_FRONTEND"
"""Lets `vllm serve` start its front end in Rust, which loads no plugin of Python."""
_SHORT = {
    "-dp": "--data-parallel-size",
    "-tp": "--tensor-parallel-size",
    "-ep": "--enable-expert-parallel",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How vLLM is started.

    Attributes:
        engine_feed: whether vLLM runs moegate's plugin.
        count_experts: whether the plugin counts the experts that the routers choose.
        flags: further flags of `vllm serve`, passed unchanged.
        environment: additions to the environment.
    """

    model: str
    served_model_name: str
    data_parallel_size: int = 1
    tensor_parallel_size: int = 1
    expert_parallel: bool = False
    max_model_len: int | None = None
    max_num_seqs: int = DEFAULT_MAX_NUM_SEQS
    engine_feed: bool = True
    count_experts: bool = False
    flags: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def gpus(self) -> int:
        """Number of GPUs, one for each rank."""
        return self.data_parallel_size * self.tensor_parallel_size

    def command(self, vllm: Path, port: int, kv_events_port: int) -> list[str]:
        """The command line. The ranks publish KV events on the ports from `kv_events_port` on, and
        replay them on the ports that follow."""
        address, ranks = f"tcp://[::ffff:{HOST}]", self.data_parallel_size
        kv_events = {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            # vLLM binds only addresses that contain "*" or "::", and connects to others. This one
            # is 127.0.0.1 in IPv6 notation: events contain token ids and must not leave the
            # machine.
            "endpoint": f"{address}:{kv_events_port}",
            "replay_endpoint": f"{address}:{kv_events_port + ranks}",
            "topic": KV_EVENTS_TOPIC,
        }
        command = [str(vllm), "serve", self.model, f"--host={HOST}", f"--port={port}"]
        command += [f"--served-model-name={self.served_model_name}"]
        command += ["--enable-prompt-tokens-details", f"--shutdown-timeout={SHUTDOWN_TIMEOUT_S}"]
        command += [f"--kv-events-config={json.dumps(kv_events)}"]
        command += [f"--max-num-seqs={self.max_num_seqs}"]
        if NO_STATISTICS_FLAG not in self.flags:
            command += [TIMES_FLAG]
        if self.max_model_len is not None:
            command += [f"--max-model-len={self.max_model_len}"]
        if self.data_parallel_size > 1:
            command += [f"--data-parallel-size={self.data_parallel_size}"]
        if self.tensor_parallel_size > 1:
            command += [f"--tensor-parallel-size={self.tensor_parallel_size}"]
        if self.expert_parallel:
            command += ["--enable-expert-parallel"]
        if self.engine_feed:
            command += PLUGIN_FLAGS
        return [*command, *self.flags]


def check_flags(flags: Sequence[str]) -> None:
    """Refuses flags that contradict the configuration of the gateway. Raises CannotLaunch."""
    for flag in flags:
        name = flag.partition("=")[0].replace("_", "-")
        name = _SHORT.get(name, name)
        if name in OWN_FLAGS:
            written = flag.partition("=")[0]  # without the value, which may be a secret
            raise CannotLaunch(f"{written} behind the --: {OWN_FLAGS[name]}")


def with_rust_front_end(environment: Mapping[str, str]) -> bool:
    """Whether vLLM starts its front end in Rust in this environment."""
    return environment.get(RUST_VARIABLE, "0") not in ("", "0")


def default_name(model: str) -> str:
    """The model name for clients: the last part of a folder's path, else the model as given."""
    return Path(model).resolve().name if Path(model).is_dir() else model
