"""Tasks of pools and remotes in the configuration: mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.load.file import ConfigError, parse
from gateway.config.tasks import Task

POOL = """
pools:
  - name: a
    model: m
    gpu: {type: H100, count: 2}
    replicas: [{name: x, url: 'http://10.0.0.1:8000'}]
    task: embed
"""
REMOTE = """
remotes:
  - name: far
    remote_class: eu
    model: m
    url: https://api.example.com
"""


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        (POOL + "    data_parallel_ranks: 2\n    pin_ranks: true\n", "pools[0].pin_ranks", "rank"),
        (POOL + REMOTE, "remotes[0].task", "pools[0].task is embed for the same model"),
        (
            POOL + REMOTE + "    api: anthropic\n    task: score\n",
            "remotes[0].task",
            "the Messages API only generates",
        ),
    ],
)
def test_mistakes_are_told(text: str, path: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "moegate.yaml", Path())
    (problem,) = caught.value.problems
    assert problem.path == path
    assert message in problem.message


@pytest.mark.parametrize(
    ("api", "task", "tasks"),
    [
        ("openai", "embed", {Task.EMBED}),
        ("openai", "score", {Task.SCORE}),
        ("moegate", "embed", {Task.EMBED, Task.SCORE}),
    ],
)
def test_what_a_server_takes_follows_from_its_task_and_its_api(
    api: str, task: str, tasks: set[Task]
) -> None:
    url = "grpcs://far:443" if api == "moegate" else "https://api.example.com"
    remote = REMOTE.replace("https://api.example.com", url) + f"    api: {api}\n    task: {task}\n"
    config = parse(POOL + remote, "moegate.yaml", Path())
    assert config.remotes[0].tasks == tasks
    assert config.pools[0].tasks == {Task.EMBED, Task.SCORE}
