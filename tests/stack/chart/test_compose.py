"""The commands of the compose file."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from tests.stack.chart.helm import ROOT
from tests.stack.chart.sandbox import in_sandbox


def test_the_compose_file_starts_with_what_it_mounts(tmp_path: Path) -> None:
    """Its gateway and simulated servers by their commands, beside a collector that takes traces."""
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    for name, service in compose.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        for source in (v.partition(":")[0] for v in service.get("volumes", ()) if v[0] == "."):
            assert (ROOT / source).is_file(), source
    (tmp_path / "etc" / "config").mkdir(parents=True)
    (source,) = (v for v in compose["gateway"]["volumes"] if "/etc/moegate/config" in v)
    text = (ROOT / source.partition(":")[0]).read_text()
    (tmp_path / "etc" / "config" / "moegate.yaml").write_text(text)
    command = [sys.executable, "-m", "tests.stack.chart.composed", str(ROOT / "compose.yaml")]
    output = in_sandbox(command, tmp_path / "etc", timeout_s=400)
    assert "TTFT" in output, output
    assert "spans of moegate" in output, output
    assert output.rstrip().endswith("ended well"), output
