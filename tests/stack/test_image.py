"""The Dockerfile's commands, run for real without a container engine, and the compose file's."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.stack.helm import ROOT
from tests.stack.sandbox import in_sandbox

CONFIG = """
server: {listen: "127.0.0.1:0", drain_delay_s: 0}
remotes: [{name: r, remote_class: eu, model: m, url: "https://api.example.com"}]
"""


def test_the_image_builds_and_starts_without_root_over_a_read_only_tree(tmp_path: Path) -> None:
    (tmp_path / "etc" / "config").mkdir(parents=True)
    (tmp_path / "etc" / "config" / "moegate.yaml").write_text(CONFIG)
    command = [sys.executable, "-m", "tests.stack.image_build", str(ROOT / "Dockerfile")]
    output = in_sandbox(command, tmp_path / "etc", timeout_s=900, network=True)
    print(output)
    assert output.rstrip().endswith("ended well"), output
