"""A cluster by the chart: one Deployment whose replicas are fronts and standbys."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from gateway.config.load.file import load
from tests.stack.chart.helm import Helm, Object, Refused, Rendered
from tests.stack.chart.test_chart import POSTGRES, REMOTE, pod_of, validate

SHARED: Object = {**REMOTE, **POSTGRES}
CLUSTER: Object = {
    "config": SHARED,
    "replicaCount": 3,
    "cluster": {"enabled": True, "tls": {"existingSecret": "between"}},
    "networkPolicy": {"enabled": True},
}
ISSUED: Object = {
    **CLUSTER,
    "cluster": {
        "enabled": True,
        "tls": {"certManager": {"enabled": True, "issuerRef": {"name": "i", "kind": "Issuer"}}},
    },
}


def ports_of(rules: list[Object]) -> set[int]:
    return {port["port"] for rule in rules for port in rule["ports"]}


def test_replicas_of_one_deployment_are_the_cluster(helm: Helm, tmp_path: Path) -> None:
    rendered = helm.render(CLUSTER)
    validate(rendered)
    assert rendered.one("Deployment")["spec"]["replicas"] == 3
    (container,) = pod_of(rendered)["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    config = yaml.safe_load(rendered.config)
    assert config["cluster"]["listen"] == f"[::]:{ports['link']}"
    assert ports["accounts"] == ports["link"] + 1
    assert config["cluster"]["name"] == "x-moegate"
    assert "spool" not in config["ledger"]
    assert "metering" not in config
    policy = rendered.one("NetworkPolicy")["spec"]
    assert {ports["link"], ports["accounts"]} <= ports_of(policy["ingress"])
    assert {ports["link"], ports["accounts"]} <= ports_of(policy["egress"])
    assert loaded(rendered, tmp_path).cluster is not None


def loaded(rendered: Rendered, folder: Path) -> Any:
    """The configuration as a gateway reads it where the pod has its files."""
    config, tls = folder / "config", folder / "cluster-tls"
    for each in (config, tls, folder / "secrets" / "ledger"):
        each.mkdir(parents=True)
    authority = trustme.CA()
    pair = authority.issue_cert("x-moegate-cluster.default")
    pair.private_key_pem.write_to_path(tls / "tls.key")
    pair.cert_chain_pems[0].write_to_path(tls / "tls.crt")
    authority.cert_pem.write_to_path(tls / "ca.crt")
    (folder / "secrets" / "ledger" / "dsn").write_text("postgresql://u:p@h/d")
    (config / "moegate.yaml").write_text(rendered.config)
    return load(config / "moegate.yaml")


def test_cert_manager_makes_the_certificate_that_the_gateways_ask_for(helm: Helm) -> None:
    rendered = helm.render(ISSUED)
    validate(rendered)
    certificate = rendered.one("Certificate", "x-moegate-cluster")["spec"]
    member = yaml.safe_load(rendered.config)["cluster"]["tls"]["member"]
    assert certificate["dnsNames"] == [member]
    volumes = {volume["name"]: volume for volume in pod_of(rendered)["volumes"]}
    assert volumes["cluster-tls"]["secret"]["secretName"] == certificate["secretName"]


def test_without_a_cluster_nothing_of_it_is_there(helm: Helm) -> None:
    rendered = helm.render({"config": SHARED, "networkPolicy": {"enabled": True}})
    assert "cluster" not in yaml.safe_load(rendered.config)
    assert "cluster-tls" not in {volume["name"] for volume in pod_of(rendered)["volumes"]}
    assert 50061 not in ports_of(rendered.one("NetworkPolicy")["spec"]["ingress"])


def test_a_cluster_is_scaled_by_what_fronts_are_short_of(helm: Helm) -> None:
    rendered = helm.render({**CLUSTER, "autoscaling": {"mode": "hpa"}})
    validate(rendered)
    pods, cpu = rendered.one("HorizontalPodAutoscaler")["spec"]["metrics"]
    assert pods["pods"]["metric"]["name"] == "moegate_requests_in_flight"
    assert cpu["resource"]["target"] == {"type": "Utilization", "averageUtilization": 70}
    keda = {"mode": "keda", "prometheusAddress": "http://prometheus:9090"}
    rendered = helm.render({**CLUSTER, "autoscaling": keda})
    validate(rendered)
    triggers = rendered.one("ScaledObject")["spec"]["triggers"]
    assert [trigger["type"] for trigger in triggers] == ["cpu", "prometheus"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**CLUSTER, "config": REMOTE, "replicaCount": 1}, "SQLite is for one replica"),
        ({**CLUSTER, "cluster": {"enabled": True}}, "need certificates for each other"),
        (
            {"config": SHARED, "cluster": {**ISSUED["cluster"], "leaseSeconds": 0.5}},
            "leaseSeconds",
        ),
        ({"config": {**SHARED, "cluster": {}}}, "config.cluster|tls is required"),
        (
            {
                "config": SHARED,
                "cluster": {"enabled": True, "tls": {"certManager": {"enabled": True}}},
            },
            "name the issuer",
        ),
    ],
)
def test_bad_values_are_refused_in_words(
    values: Mapping[str, Any], message: str, helm: Helm
) -> None:
    with pytest.raises(Refused, match=message):
        helm.render(values)
