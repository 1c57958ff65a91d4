"""The real vLLM server of this suite, shared by its tests, and a gateway in front of it."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests import serving
from tests.vllm.launch import VllmProcess, running_vllm, unsupported_cpu


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmProcess]:
    """A vLLM that has answered a request: skipped on an unfit CPU, failing on any other lack."""
    if reason := unsupported_cpu():
        pytest.skip(reason)
    with running_vllm(tmp_path_factory.mktemp("vllm"), kv_events=True) as server:
        yield server


@pytest.fixture
async def gateway(vllm_server: VllmProcess) -> AsyncIterator[serving.Serving]:
    """A gateway in front of it."""
    own = serving.pool([vllm_server.base_url], upstream_model=vllm_server.model, max_num_seqs=32)
    settings = serving.config(pools=[own], interactive=serving.PATIENT)
    async with serving.serving(settings) as running:
        yield running
