"""What the chart renders starts a gateway that serves: the very file, command, probes and notes."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from moegate.cli.main import main as moegate
from tests.stack.chart.helm import CHART, EXAMPLES, NAMESPACE, Helm, Rendered
from tests.stack.chart.sandbox import in_sandbox

KEY = "mg-key-of-the-chart-test"
VLLM_KEY = "vllm-key-of-the-chart-test"
REPLICA_KEYS = ("vllm-key", "vllm")


def lay_out(rendered: Rendered, etc: Path) -> None:
    """The pod's files below /etc/moegate: the ConfigMap, and a Secret's text in every file that the
    configuration names."""
    (etc / "config").mkdir(parents=True)
    for name, text in rendered.one("ConfigMap")["data"].items():
        (etc / "config" / name).write_text(text)
    for name in _secret_files(yaml.safe_load(rendered.config)):
        path = (etc / "config" / name).resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{_secret(path)}\n")
    if (tls := yaml.safe_load(rendered.config)["server"].get("tls")) is not None:
        authority = trustme.CA()
        names = ("localhost", f"x-moegate.{NAMESPACE}.svc")
        issued = authority.issue_cert(*names)
        (etc / "tls").mkdir()
        authority.cert_pem.write_to_path(etc / "tls" / "ca.crt")
        issued.private_key_pem.write_to_path(etc / "config" / tls["key"])
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        (etc / "config" / tls["cert"]).write_bytes(chain)


def _secret(path: Path) -> str:
    if path.parent.name in REPLICA_KEYS:
        return VLLM_KEY
    if path.parent.name == "ledger":
        return "postgresql://user:password@postgres/ledger"
    return f"{KEY}-{path.name}"


def _secret_files(part: Any) -> list[str]:
    """Every `file` of a secret in a configuration."""
    if isinstance(part, list):
        return [name for item in part for name in _secret_files(item)]
    if isinstance(part, dict):
        own = [part["file"]] if set(part) == {"file"} else []
        return own + [name for item in part.values() for name in _secret_files(item)]
    return []


def _lay_out_volumes(rendered: Rendered, config: Path, volumes: Path) -> None:
    """Folders in place of the pod's volumes outside of /etc/moegate: the check wants to write in
    those that the configuration names."""
    paths = [path for path in mounted(rendered) if not path.startswith("/etc/moegate")]
    for path in paths:
        (volumes / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
    named = re.compile(rf"(?<![^\s\"'])({'|'.join(map(re.escape, paths))})(?=/)")
    config.write_text(named.sub(lambda found: f"{volumes}{found[1]}", config.read_text()))


def secrets_of(values: Any) -> set[str]:
    """Names of the Secrets that values refer to."""
    if isinstance(values, list):
        return {name for item in values for name in secrets_of(item)}
    if isinstance(values, dict):
        own = {values[key] for key in ("secretName", "existingSecret") if values.get(key)}
        return own | {name for item in values.values() for name in secrets_of(item)}
    return set()


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_shows_every_secret_that_it_needs(example: str) -> None:
    text = (CHART / "examples" / f"{example}.yaml").read_text()
    values = yaml.safe_load(text)
    pulls = {item["name"] for item in values.get("imagePullSecrets", [])}
    shown = {}
    shell = text.replace("\\\n#", "")
    for name, rest in re.findall(r"create secret \S+ (\S+)(.*)", shell):
        shown[name] = set(re.findall(r"--from-(?:literal|file)=([a-z.-]+)", rest))
    assert shown.keys() == secrets_of(values) | pulls
    files = {
        (item["secretName"], file.rpartition("/")[2])
        for item in values.get("secrets", [])
        for file in _secret_files(values["config"])
        if f"/{item['name']}/" in file
    }
    for name, key in files:
        assert key in shown[name], f"{example}: the key {key} of Secret {name} is not shown"


def mounted(rendered: Rendered) -> set[str]:
    """Paths where the pod has volumes."""
    (container,) = rendered.one("Deployment")["spec"]["template"]["spec"]["containers"]
    return {mount["mountPath"] for mount in container["volumeMounts"]}


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_rendered_configuration_passes_the_check(
    example: str, helm: Helm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rendered = helm.render(example=example)
    lay_out(rendered, tmp_path)
    _lay_out_volumes(rendered, tmp_path / "config" / "moegate.yaml", tmp_path / "volumes")
    assert moegate(["check", str(tmp_path / "config" / "moegate.yaml")]) == 0, capsys.readouterr()
    needed = {path.parent for path in tmp_path.rglob("*") if path.is_file()}
    for folder in needed:
        assert f"/etc/moegate/{folder.relative_to(tmp_path)}" in mounted(rendered)


@pytest.mark.parametrize("example", ["one-node", "air-gapped"])
def test_the_rendered_pod_starts_serves_and_ends(
    example: str, helm: Helm, new_helm: Helm, tmp_path: Path
) -> None:
    # Nobody waits for the seconds that a real cluster needs.
    quick = {"preStopSeconds": 1, "config": {"server": {"drain_delay_s": 3}}}
    if example == "air-gapped":
        quick["test"] = {"apiKey": {"existingSecret": "moegate-callers", "key": "research"}}
    rendered = helm.render(quick, example=example)
    lay_out(rendered, tmp_path / "etc")
    (pool,) = yaml.safe_load(rendered.config)["pools"]
    tenant = yaml.safe_load(rendered.config)["tenants"][0]
    last_line = new_helm.notes(quick, example=example).strip().splitlines()[-1]
    in_the_pod = shlex.split(last_line.partition(" -- ")[2])
    assert in_the_pod[0] == "env"
    assert in_the_pod[2] == "moegate"
    (test,) = rendered.one("Pod", "x-moegate-test")["spec"]["containers"]
    task = {
        "deployment": rendered.one("Deployment"),
        "served": pool.get("upstream_model", pool["model"]),
        "found": pool["discover"]["dns"],
        "service": f"x-moegate.{NAMESPACE}.svc",
        "vllm_key": VLLM_KEY if "api_key" in pool else None,
        "key": f"{KEY}-{tenant['keys'][0]['id']}",
        "commands": {"notes": in_the_pod[3:], "helm test": test["args"]},
    }
    (tmp_path / "task.json").write_text(json.dumps(task))
    command = [
        sys.executable,
        "-m",
        "tests.stack.chart.kubelet",
        str(tmp_path / "etc" / "task.json"),
    ]
    (tmp_path / "task.json").rename(tmp_path / "etc" / "task.json")
    command[-1] = "/etc/moegate/task.json"
    output = in_sandbox(command, tmp_path / "etc", timeout_s=400)
    assert output.count("TTFT") == 2, output
    assert output.rstrip().endswith("ended well"), output
