"""Generates files of the chart: values.schema.json, and the table of values in README.md.

The schema's `config` part comes from the gateway's types, the rest from values.yaml and `RULES`.
`make chart` runs this script, tests/repository/test_chart_files.py compares the files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from gateway.config.syntax.schema import json_schema

CHART = Path(__file__).parent / "moegate"
BEGIN, END = "<!-- values: begin -->\n", "<!-- values: end -->\n"

_NAME = {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"}
_NATURAL = {"type": "integer", "minimum": 1}
_ISSUER = {
    "type": "object",
    "properties": {key: {"type": "string"} for key in ("name", "kind", "group")},
    "additionalProperties": False,
}
_SECRET_KEY = {
    "type": "object",
    "properties": {"existingSecret": {"type": "string"}, "key": {"type": "string"}},
    "additionalProperties": False,
    "dependencies": {"existingSecret": ["key"], "key": ["existingSecret"]},
}


def _probes(*names: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: {"type": "object"} for name in names},
        "additionalProperties": False,
    }


RULES: dict[str, dict[str, Any]] = {
    "config": {"$ref": "#/$defs/GatewayConfig"},
    "replicaCount": _NATURAL,
    "image.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "image.digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    "secrets": {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {"name": _NAME, "secretName": {"type": "string", "minLength": 1}},
            "required": ["name", "secretName"],
            "additionalProperties": False,
        },
    },
    "tls.certManager.issuerRef": _ISSUER,
    "service.type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "service.port": {"type": "integer", "minimum": 1, "maximum": 65_535},
    "http.port": {"type": "integer", "minimum": 1, "maximum": 65_535},
    "console.port": {"type": "integer", "minimum": 1, "maximum": 65_535},
    "console.oidc": {
        "anyOf": [{"type": "object", "maxProperties": 0}, {"$ref": "#/$defs/OidcConfig"}]
    },
    "metrics.port": {"type": "integer", "minimum": 1024, "maximum": 65_535},
    "otel.sampleRatio": {"type": "number", "minimum": 0, "maximum": 1},
    "otel.endpoint": {"type": "string", "pattern": "^(https?://[^/]+/?)?$"},
    "autoscaling.mode": {"enum": ["none", "hpa", "keda"]},
    "autoscaling.minReplicas": _NATURAL,
    "autoscaling.maxReplicas": _NATURAL,
    "autoscaling.inFlightPerPod": _NATURAL,
    "autoscaling.queuedPerPod": _NATURAL,
    "autoscaling.cpuPercent": _NATURAL,
    "cluster.leaseSeconds": {"type": "number", "minimum": 1, "maximum": 60},
    "cluster.tls.certManager.issuerRef": _ISSUER,
    "podDisruptionBudget.maxUnavailable": {"type": ["integer", "string"]},
    "terminationGracePeriodSeconds": {"type": ["integer", "null"], "minimum": 1},
    "preStopSeconds": {"type": "integer", "minimum": 0},
    "logLevel": {"enum": ["DEBUG", "INFO", "WARNING", "ERROR"]},
    "service.ipFamilyPolicy": {"enum": ["", "SingleStack", "PreferDualStack", "RequireDualStack"]},
    "service.ipFamilies": {"type": "array", "items": {"enum": ["IPv4", "IPv6"]}, "maxItems": 2},
    "service.externalTrafficPolicy": {"enum": ["", "Cluster", "Local"]},
    "probes": _probes("startup", "readiness", "liveness"),
    "extraObjects": {"type": "array", "items": {"type": ["object", "string"]}},
    "vllm": {"type": "array", "items": {"$ref": "#/$defs/VllmServers"}},
    "vllmDefaults.name": _NAME,
    "vllmDefaults.image.digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    "vllmDefaults.image.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "vllmDefaults.replicas": {"type": "integer", "minimum": 0},
    "vllmDefaults.nodes": _NATURAL,
    "vllmDefaults.gpu.count": _NATURAL,
    "vllmDefaults.gpu.usdPerGpuHour": {
        "type": "string",
        "pattern": r"^([0-9]{1,6}(\.[0-9]{1,9})?)?$",
    },
    "vllmDefaults.dataParallelSize": _NATURAL,
    "vllmDefaults.tensorParallelSize": _NATURAL,
    "vllmDefaults.pipelineParallelSize": _NATURAL,
    "vllmDefaults.maxModelLen": {"type": ["integer", "null"], "minimum": 1},
    "vllmDefaults.maxNumSeqs": _NATURAL,
    "vllmDefaults.disaggregated.prefill": _NATURAL,
    "vllmDefaults.disaggregated.decode": _NATURAL,
    "vllmDefaults.discovery": {"enum": ["dns", "endpointSlices"]},
    "vllmDefaults.autoscaling.mode": {"enum": ["none", "keda", "money"]},
    "vllmDefaults.autoscaling.minReplicas": {"type": "integer", "minimum": 0},
    "vllmDefaults.autoscaling.maxReplicas": _NATURAL,
    "vllmDefaults.autoscaling.saturation": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    "vllmDefaults.autoscaling.margin": {"type": "number", "minimum": 0, "maximum": 1},
    "vllmDefaults.apiKey": _SECRET_KEY,
    "vllmDefaults.hfToken": _SECRET_KEY,
    "vllmDefaults.extraArgs": {"type": "array", "items": {"type": "string"}},
    "vllmDefaults.modelVolume.mountPath": {"type": "string", "pattern": "^/[^ ]*[^/ ]$"},
    "vllmDefaults.podDisruptionBudget.maxUnavailable": {"type": ["integer", "string"]},
    "vllmDefaults.updateStrategy.type": {"enum": ["RollingUpdate", "OnDelete"]},
    "vllmDefaults.updateStrategy.maxUnavailable": {"type": ["integer", "string"]},
    "vllmDefaults.probes": _probes("startup", "readiness", "liveness", "proxy"),
}
"""Schemas of values whose default does not determine them, keyed by path."""

_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


def values() -> dict[str, Any]:
    """Reads the chart's default values."""
    loaded: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    return loaded


def described() -> dict[str, str]:
    """Descriptions of values (`# --` above a value in values.yaml), keyed by path, in order."""
    found: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    text: list[str] = []
    for line in (CHART / "values.yaml").read_text().splitlines():
        if match := re.match(r" *# -- (.*)", line):
            text = [match[1]]
        elif (match := re.match(r" *# (.*)", line)) and text:
            text.append(match[1])
        elif match := re.match(r"( *)([A-Za-z_]+):", line):
            indent = len(match[1])
            parents = [(at, name) for at, name in parents if at < indent] + [(indent, match[2])]
            if text:
                found[".".join(name for _, name in parents)] = " ".join(text)
            text = []
        else:
            text = []
    return found


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields path and value of every leaf: anything but a mapping that is not empty."""
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def schema() -> dict[str, Any]:
    """The content of values.schema.json. Every Helm 3 and 4 supports draft 7."""
    own = json.loads(json.dumps(json_schema()))  # tuples as lists, as they are read again
    definitions = own["$defs"]
    assert own["$ref"] == "#/$defs/GatewayConfig"
    shape = _shape(values(), "", described())
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the moegate chart",
        **shape,
        "$defs": {**definitions, "VllmServers": shape["properties"]["vllmDefaults"]},
    }


def _shape(value: Any, path: str, texts: dict[str, str]) -> dict[str, Any]:
    if path in RULES:
        rule = RULES[path]
    elif isinstance(value, dict) and (value and path not in texts):
        rule = {
            "type": "object",
            "properties": {
                name: _shape(item, f"{path}.{name}" if path else name, texts)
                for name, item in value.items()
            },
            "additionalProperties": False,
        }
        if not path:
            rule["properties"]["global"] = {"type": "object"}
    elif isinstance(value, dict):
        rule = {"type": "object"}
    elif isinstance(value, list):
        rule = {"type": "array"}
    else:
        rule = {"type": _TYPES[type(value)]}
    return rule | ({"description": texts[path]} if path in texts and "$ref" not in rule else {})


def table() -> str:
    """The table of values for README.md."""
    defaults = values()
    lines = ["| value | default | meaning |", "|---|---|---|"]
    for path, text in described().items():
        default: Any = defaults
        for name in path.split("."):
            default = default[name]
        lines.append(f"| `{path}` | `{json.dumps(default)}` | {text.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def readme() -> str:
    """The content of README.md with the current table."""
    before, _, rest = (CHART / "README.md").read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


def main() -> None:
    """Writes both files."""
    (CHART / "values.schema.json").write_text(json.dumps(schema(), indent=2) + "\n")
    (CHART / "README.md").write_text(readme())


if __name__ == "__main__":
    main()
