"""Record tests/golden/vllm_0_33_rust/ anew: `python -m tests.vllm.record_rust_golden`, with
MOEGATE_VLLM_VERSION=0.33.0 and the environment of that version; about a minute.

What vLLM's front end in Rust answers to the requests of record_golden.py, and its gRPC port to
`vllm.Control/GetServerInfo`, in bytes.
"""

import tempfile
from pathlib import Path

import grpc

from gateway.upstream.vllm_grpc.server_info import METHOD
from tests.vllm.launch import HOST, REPOSITORY, VllmProcess, running_vllm
from tests.vllm.record_golden import RECORDINGS, record

GOLDEN = REPOSITORY / "tests" / "golden" / "vllm_0_33_rust"


def record_server_info(server: VllmProcess) -> None:
    """Writes the bytes of its answer."""
    with grpc.insecure_channel(f"{HOST}:{server.grpc_port}") as channel:
        call = channel.unary_unary(METHOD, bytes, bytes)
        (GOLDEN / "server_info.bin").write_bytes(call(b"", timeout=30))


def main() -> None:
    GOLDEN.mkdir(parents=True, exist_ok=True)
    sections = [(Path(__file__).parent / "rust_golden_readme.md").read_text()]
    with (
        tempfile.TemporaryDirectory(prefix="moegate-golden-") as folder,
        running_vllm(Path(folder), rust=True) as server,
    ):
        sections += record(server, RECORDINGS, GOLDEN)
        record_server_info(server)
    (GOLDEN / "README.md").write_text("\n".join(sections))


if __name__ == "__main__":
    main()
