"""The real vLLM server of this suite, shared by its tests."""

from collections.abc import Iterator

import pytest

from tests.vllm.launch import VllmServer, running_vllm, unsupported_cpu


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """A vLLM that has answered a request: skipped on an unfit CPU, failing on any other lack."""
    if reason := unsupported_cpu():
        pytest.skip(reason)
    with running_vllm(tmp_path_factory.mktemp("vllm"), kv_events=True) as server:
        yield server
