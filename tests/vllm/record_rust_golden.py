"""Record tests/golden/vllm_0_33_rust/ anew: `python -m tests.vllm.record_rust_golden`, with
MOEGATE_VLLM_VERSION=0.33.0 and the environment of that version; some three minutes.

What vLLM's front end in Rust answers to the requests of record_golden.py, and its gRPC port to
`vllm.Control/GetServerInfo`, in bytes.
"""

import tempfile
from pathlib import Path

import grpc

from gateway.upstream.vllm_grpc.server_info import METHOD
from tests.vllm.launch import HOST, REPOSITORY, VllmProcess, running_vllm
from tests.vllm.record_golden import (
    DATA_PARALLEL_SIZE,
    RANKS_RECORDINGS,
    RECORDINGS,
    record,
)

GOLDEN = REPOSITORY / "tests" / "golden" / "vllm_0_33_rust"


def record_server_info(server: VllmProcess, file: str) -> None:
    """Writes the bytes of its answer."""
    with grpc.insecure_channel(f"{HOST}:{server.grpc_port}") as channel:
        (GOLDEN / file).write_bytes(channel.unary_unary(METHOD, bytes, bytes)(b"", timeout=30))


def main() -> None:
    GOLDEN.mkdir(parents=True, exist_ok=True)
    sections = [(Path(__file__).parent / "rust_golden_readme.md").read_text()]
    with tempfile.TemporaryDirectory(prefix="moegate-golden-") as folder:
        with running_vllm(Path(folder), rust=True) as server:
            sections += record(server, RECORDINGS, GOLDEN)
            record_server_info(server, "server_info.bin")
        ranks = DATA_PARALLEL_SIZE
        with running_vllm(Path(folder), data_parallel_size=ranks, rust=True) as server:
            sections += record(server, RANKS_RECORDINGS, GOLDEN)
            record_server_info(server, "server_info_of_ranks.bin")
    (GOLDEN / "README.md").write_text("\n".join(sections))


if __name__ == "__main__":
    main()
