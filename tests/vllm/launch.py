"""Start and stop a real vLLM CPU server for the tests: its flags and environment stand only here.

vLLM lives in a Python environment of its own (vllm_cpu/install.sh) and is reached only over HTTP.
Its workers outlive a killed API server, so every stop ends the whole process group.
"""

import http.client
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from moegate.up.engine_plugin import FLAGS as PLUGIN_FLAGS
from moegate.up.engine_plugin import make_plugin_folder
from moegate.up.launch import TIMES_FLAG
from tests.vllm.thinking_model import FLAGS as THINKING_FLAGS
from tests.vllm.thinking_model import make_thinking_model

REPOSITORY = Path(__file__).resolve().parents[2]
MODEL_DIR = REPOSITORY / ".cache" / "tiny-moe"
MODEL_NAME = "tiny-moe"
HOST = "127.0.0.1"

VERSION = os.environ.get("MOEGATE_VLLM_VERSION") or "0.32.0"
"""The version that the suite claims to run on."""
HAS_RUST_FRONT_END = VERSION != "0.32.0"
"""Whether this version brings the front end in Rust, vllm-rs."""
RUST_FRONT_END = {"VLLM_USE_RUST_FRONTEND": "1"}
"""The environment that makes `vllm serve` start it in the place of the API server in Python."""
DATA_PARALLEL_PLUGIN = REPOSITORY / "vllm_cpu" / "data_parallel"
"""Operations that vLLM's CPU build lacks between data-parallel ranks of a MoE model."""
KV_EVENTS_TOPIC = "kv-events"
START_LIMIT_S = 300.0
DRAIN_S = 20  # --shutdown-timeout: without it SIGTERM leaves open streams silent for ever
STOP_LIMIT_S = DRAIN_S + 20.0
LOG_TAIL_LINES = 60
ENGINE_KEY = "a-key-of-the-engine"
"""Of servers with the plugin: its route needs a key."""

FLAGS = (
    "--dtype=bfloat16",
    "--max-model-len=8192",
    "--max-num-seqs=32",
    "--enforce-eager",
    "--num-gpu-blocks-override=600",  # 76,800 tokens of KV cache: small enough to fill in a test
    "--enable-prompt-tokens-details",
    # Without a parser vLLM refuses tools, unless the tool choice is "none".
    "--enable-auto-tool-choice",
    "--tool-call-parser=hermes",
    # Else a parser leaves the arguments of a forced call free: any JSON, a bare number too.
    "--tool-strict-level=parameter",
    f"--shutdown-timeout={DRAIN_S}",
)
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",  # on two cores a second thread spins against the API server: 10x slower
}


@dataclass(frozen=True, slots=True)
class FirstRequest:
    """A request that shows that the server serves."""

    path: str
    body: dict[str, object]


CHAT = FirstRequest(
    "/v1/chat/completions",
    {
        "model": MODEL_NAME,
        "messages": [{"role": "user", "content": "ready?"}],
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 1,
    },
)
"""One chat token with its log-probability. vLLM compiles that kernel on first use and answers
nobody meanwhile (17 s measured): so it does before the tests' traffic."""
_READY = "Is the server ready? Some sixteen tokens, or a CPU with AMX kills it."
SCORE = FirstRequest("/score", {"model": MODEL_NAME, "text_1": _READY, "text_2": _READY})
"""One score, of a server that pools."""
EMBEDDING_FLAGS = ("--runner=pooling", "--convert=embed")
SCORING_FLAGS = ("--runner=pooling", "--convert=classify", '--hf-overrides={"num_labels": 1}')
"""Flags by which the tiny model makes vectors, or scores of pairs."""


class VllmFailed(Exception):
    """vLLM is not installed, or did not come up; the message says which and shows the log's end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmProcess:
    """A running server that has answered a real request."""

    port: int
    pid: int  # of the API server, which leads the process group of all its workers
    log_path: Path
    startup_s: float
    model: str = MODEL_NAME
    kv_events: tuple[int, int] | None = None  # ports that it publishes on and replays from
    grpc_port: int | None = None  # of the front end in Rust, which alone has one

    @property
    def base_url(self) -> str:
        return f"http://{HOST}:{self.port}"


def unsupported_cpu() -> str | None:
    """Why this CPU cannot run the vLLM CPU build, or None if it can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return (
            f"the vLLM CPU build is tested on Linux x86_64, not {sys.platform} {platform.machine()}"
        )
    flags = next(
        (
            line
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("flags")
        ),
        "",
    )
    return None if "avx512f" in flags.split() else "this CPU has no avx512f"


def vllm_venv() -> Path:
    """The environment vLLM is installed in: MOEGATE_VLLM_VENV, or .venv-vllm in the repository."""
    venv = Path(os.environ.get("MOEGATE_VLLM_VENV") or REPOSITORY / ".venv-vllm").absolute()
    if not (venv / "bin" / "vllm").is_file():
        raise VllmFailed(f"no vLLM in {venv}: run vllm_cpu/install.sh {venv}")
    return venv


def build_model(venv: Path, router_skew: float = 0.0) -> Path:
    """Make the tiny checkpoint unless it is there; about 10 s the first time."""
    script = REPOSITORY / "vllm_cpu" / "tiny_moe.py"
    folder = MODEL_DIR
    if router_skew:
        folder = MODEL_DIR.with_name(f"{MODEL_DIR.name}-skew-{router_skew:g}")
    build = subprocess.run(
        [venv / "bin" / "python", script, folder, f"--router-skew={router_skew}"],
        env=_environment(),
        capture_output=True,
        text=True,
    )
    if build.returncode != 0:
        raise VllmFailed(f"{script.name} failed:\n{build.stdout}{build.stderr}")
    return folder


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedVllm:
    """A server whose processes run: it need not listen yet, and may die at any time."""

    process: subprocess.Popen[bytes]
    port: int
    log_path: Path
    started_s: float  # on the monotonic clock
    grpc_port: int | None = None

    @property
    def base_url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def wait_until_serving(self, request: FirstRequest | None = None) -> None:
        """Raises VllmFailed if the request, by default `CHAT`, does not succeed within
        START_LIMIT_S of the start."""
        _wait_until_serving(self, request or CHAT, deadline=self.started_s + START_LIMIT_S)


@contextmanager
def started_vllm(
    log_dir: Path,
    extra_flags: Sequence[str] = (),
    *,
    data_parallel_size: int = 1,
    plugin: bool = False,
    experts: bool = False,
    router_skew: float = 0.0,
    rust: bool = False,
    thinking: bool = False,
    pooling: Sequence[str] = (),
) -> Iterator[StartedVllm]:
    """Start the tiny model's server on a free loopback port; it is stopped after the block.

    `plugin`: with moegate's plugin, whose route needs ENGINE_KEY; `experts`: which counts them.
    `rust`: with the front end in Rust. `thinking`: with a parser of reasoning. `pooling`: flags of
    a server that makes vectors or scores instead of text.
    """
    venv = vllm_venv()
    model_dir = build_model(venv, router_skew)
    port = _free_port()
    log_path = log_dir / f"vllm-{port}.log"
    if thinking:
        model_dir = make_thinking_model(model_dir, log_dir / f"model-{port}")
        extra_flags = [*extra_flags, *THINKING_FLAGS]
    command: list[str | Path] = [venv / "bin" / "vllm", "serve", model_dir]
    command += [f"--served-model-name={MODEL_NAME}", f"--host={HOST}", f"--port={port}"]
    environment = _environment()
    import_paths: list[Path] = []
    if data_parallel_size > 1:
        command.append(f"--data-parallel-size={data_parallel_size}")
        import_paths.append(DATA_PARALLEL_PLUGIN)
        # Whatever the value: else 0.33 gives each rank the memory node of its number, which most
        # computers lack. "0": nothing is simulated.
        environment["VLLM_CPU_SIM_MULTI_NUMA"] = "0"
    if plugin:
        command += [*PLUGIN_FLAGS, TIMES_FLAG]
        environment["MOEGATE_FEED_KEY"] = ENGINE_KEY
        if experts:
            environment["MOEGATE_EXPERTS"] = "1"
        import_paths.append(make_plugin_folder(log_dir / f"plugin-{port}"))
    grpc_port = _free_port() if rust else None
    if rust:
        command.append(f"--grpc-port={grpc_port}")
        environment |= RUST_FRONT_END
    if import_paths:
        environment["PYTHONPATH"] = os.pathsep.join(map(str, import_paths))
    started_s = time.monotonic()
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [*command, *FLAGS, *pooling, *extra_flags],
            env=environment,
            cwd=log_dir,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield StartedVllm(
            process=process,
            port=port,
            log_path=log_path,
            started_s=started_s,
            grpc_port=grpc_port,
        )
    finally:
        stop(process)


@contextmanager
def running_vllm(
    log_dir: Path,
    extra_flags: Sequence[str] = (),
    *,
    kv_events: bool = False,
    data_parallel_size: int = 1,
    plugin: bool = False,
    experts: bool = False,
    router_skew: float = 0.0,
    rust: bool = False,
    thinking: bool = False,
    pooling: Sequence[str] = (),
) -> Iterator[VllmProcess]:
    """The same, once it serves. Raises VllmFailed if it does not within START_LIMIT_S."""
    ports = (_free_port(), _free_port()) if kv_events else None
    if ports is not None:
        address = f"tcp://[::ffff:{HOST}]"  # vLLM binds what holds "::", and connects to the rest
        events = {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            "endpoint": f"{address}:{ports[0]}",
            "replay_endpoint": f"{address}:{ports[1]}",
            "topic": KV_EVENTS_TOPIC,
        }
        extra_flags = [*extra_flags, f"--kv-events-config={json.dumps(events)}"]
    with started_vllm(
        log_dir,
        extra_flags,
        data_parallel_size=data_parallel_size,
        plugin=plugin,
        experts=experts,
        router_skew=router_skew,
        rust=rust,
        thinking=thinking,
        pooling=pooling,
    ) as started:
        started.wait_until_serving(SCORE if pooling else CHAT)
        yield VllmProcess(
            port=started.port,
            pid=started.process.pid,
            log_path=started.log_path,
            startup_s=time.monotonic() - started.started_s,
            kv_events=ports,
            grpc_port=started.grpc_port,
        )


def stop(process: subprocess.Popen[bytes]) -> None:
    """Let the server drain, then kill what is left of its process group."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_LIMIT_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait_until_serving(started: StartedVllm, request: FirstRequest, *, deadline: float) -> None:
    """Poll with a real request: /health is 200 even where the first request kills the engine."""
    problem = "no connection"
    process, log_path = started.process, started.log_path
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise VllmFailed(f"vLLM exited with {process.returncode}\n{_tail(log_path)}")
        try:
            timeout_s = max(1.0, deadline - time.monotonic())
            status, body = _answer(started.port, request, timeout_s=timeout_s)
        except (OSError, http.client.HTTPException) as error:
            problem = repr(error)
        else:
            if status == 200:
                return
            problem = f"HTTP {status}: {body[:300]!r}"
        time.sleep(0.5)
    raise VllmFailed(f"vLLM not up in {START_LIMIT_S:.0f} s ({problem})\n{_tail(log_path)}")


def _answer(port: int, request: FirstRequest, *, timeout_s: float) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout_s)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", request.path, json.dumps(request.body), headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _environment() -> dict[str, str]:
    """The caller's, without what would mix the two Python environments."""
    dropped = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    return {k: v for k, v in os.environ.items() if k not in dropped} | ENVIRONMENT


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _tail(log_path: Path) -> str:
    lines = log_path.read_text(errors="replace").splitlines()
    return "\n".join([f"--- end of {log_path}", *lines[-LOG_TAIL_LINES:]])
