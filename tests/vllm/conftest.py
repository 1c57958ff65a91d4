"""The real vLLM server of this suite, shared by its tests, and a gateway in front of it."""

from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest

from tests import serving
from tests.vllm.launch import HAS_RUST_FRONT_END, VllmProcess, running_vllm, unsupported_cpu

PYTHON, RUST = "python", "rust"
ON_EACH_FRONT_END = {
    *("test_cost", "test_data_parallel", "test_dialect", "test_gateway", "test_kv_events"),
}
"""Modules whose tests run on each front end that this version has; others on that in Python."""
SERVERS = ("vllm_server", "ranks_server")
"""Fixtures of servers, whose parameter names the front end."""
collect_ignore = [] if HAS_RUST_FRONT_END else ["test_rust_front_end.py"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    module = metafunc.module.__name__.rpartition(".")[2]
    both = HAS_RUST_FRONT_END and module in ON_EACH_FRONT_END
    only = RUST if module == "test_rust_front_end" else PYTHON
    front_ends = [PYTHON, RUST] if both else [only]
    chosen = {mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")}
    for server in SERVERS:
        if server in metafunc.fixturenames and server not in chosen:
            metafunc.parametrize(server, front_ends, indirect=True)


@pytest.fixture(scope="session")
def vllm_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VllmProcess]:
    """A vLLM that has answered a request: skipped on an unfit CPU, failing on any other lack."""
    if reason := unsupported_cpu():
        pytest.skip(reason)
    rust = request.param == RUST
    with running_vllm(tmp_path_factory.mktemp("vllm"), kv_events=True, rust=rust) as server:
        yield server


@pytest.fixture
async def gateway(vllm_server: VllmProcess) -> AsyncIterator[serving.Serving]:
    """A gateway in front of it."""
    own = serving.pool([vllm_server.base_url], upstream_model=vllm_server.model, max_num_seqs=32)
    own = msgspec.structs.replace(own, grpc_port=vllm_server.grpc_port)
    settings = serving.config(pools=[own], interactive=serving.PATIENT)
    async with serving.serving(settings) as running:
        yield running
