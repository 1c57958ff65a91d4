"""Pinned data-parallel ranks in the configuration: mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.load.file import ConfigError, parse

POOL = """
pools:
  - name: a
    model: m
    gpu: {type: H100, count: %d}
    data_parallel_ranks: %d
    pin_ranks: true
    replicas: [{name: x, url: 'http://10.0.0.1:8000'}]
"""


@pytest.mark.parametrize(
    ("gpus", "ranks", "further", "path", "message"),
    [
        (8, 1, "", "pools[0].pin_ranks", "nothing to choose from"),
        (8, 3, "", "pools[0].data_parallel_ranks", "8 GPUs (gpu.count) cannot be shared"),
        (2, 4, "", "pools[0].data_parallel_ranks", "cannot be shared evenly by 4 ranks"),
        (8, 8, "disaggregated: {prefill: 1, decode: 1}", "pools[0].pin_ranks", "its nodes"),
    ],
)
def test_mistakes_are_told(gpus: int, ranks: int, further: str, path: str, message: str) -> None:
    text = POOL % (gpus, ranks) + (f"    {further}\n" if further else "")
    with pytest.raises(ConfigError) as caught:
        parse(text, "moegate.yaml", Path())
    (problem,) = caught.value.problems
    assert problem.path == path
    assert message in problem.message
