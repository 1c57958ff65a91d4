"""The chart by real Helm: every example and a matrix of values, valid objects, clear refusals."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

import kubernetes_validate
import pytest
import yaml

from gateway.telemetry import semconv
from tests.stack.chart import crd_schemas
from tests.stack.chart.helm import CHART, EXAMPLES, Helm, Object, Refused, Rendered

KUBERNETES = tuple(f"1.{minor}" for minor in range(29, 38))
POSTGRES: Object = {"ledger": {"postgres": {"file": "../secrets/ledger/dsn"}}}
REMOTE: Object = {
    "remotes": [{"name": "r", "remote_class": "eu", "model": "m", "url": "https://api.example.com"}]
}


def validate(rendered: Rendered, versions: tuple[str, ...] = KUBERNETES) -> None:
    for found in rendered.objects.values():
        if (found["apiVersion"], found["kind"]) in crd_schemas.SPECS:
            crd_schemas.validate(found)
        else:
            for version in versions:
                kubernetes_validate.validate(found, version, strict=True)


def pod_of(rendered: Rendered) -> Object:
    spec: Object = rendered.one("Deployment")["spec"]["template"]["spec"]
    return spec


def restricted(pod: Object) -> None:
    """What the pod security standard `restricted` asks for, and no token."""
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["readOnlyRootFilesystem"] is True
        assert container["resources"]["requests"]["cpu"]
        assert "cpu" not in container["resources"].get("limits", {}), "throttling is latency"


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_render_alike_by_every_helm_and_are_valid(
    example: str, helm: Helm, new_helm: Helm, helms: list[Helm]
) -> None:
    rendered = helm.render(example=example)
    for each in helms:
        assert rendered.objects == each.render(example=example).objects, each
    validate(rendered)
    for (kind, _), found in rendered.objects.items():
        labels = found["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "x", kind
        assert labels["app.kubernetes.io/managed-by"] == "Helm", kind
        if kind in ("Deployment", "StatefulSet"):
            restricted(found["spec"]["template"]["spec"])
            wanted = found["spec"]["selector"]["matchLabels"].items()
            assert wanted <= found["spec"]["template"]["metadata"]["labels"].items()
        elif kind == "Pod":
            restricted(found["spec"])
    assert "[ERROR]" not in (told := helm.lint(example) + new_helm.lint(example)), told
    assert "[WARNING]" not in told, told


def test_lint_of_the_bare_chart_is_clean(helm: Helm, new_helm: Helm) -> None:
    for each in (helm, new_helm):
        assert "0 chart(s) failed" in each.lint("")


def test_the_services_and_the_probes(helm: Helm) -> None:
    rendered = helm.render({"config": REMOTE})
    balanced, headless = rendered.one("Service"), rendered.one("Service", "x-moegate-headless")
    for service in (balanced, headless):
        (port,) = service["spec"]["ports"]
        assert port["appProtocol"] == "kubernetes.io/h2c"
        assert service["spec"]["selector"]["app.kubernetes.io/component"] == "gateway"
    assert headless["spec"]["clusterIP"] == "None"
    (container,) = pod_of(rendered)["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    config = yaml.safe_load(rendered.config)
    assert config["server"]["listen"] == f"[::]:{ports['grpc']}"
    assert config["server"]["health_listen"] == f"[::]:{ports['health']}"
    assert config["telemetry"]["metrics_listen"] == f"[::]:{ports['metrics']}"
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["grpc"]["port"] == ports["health"]


def test_only_what_a_running_gateway_cannot_change_makes_pods_anew(helm: Helm) -> None:
    def template(**values: Any) -> Object:
        found: Object = helm.render(values).one("Deployment")["spec"]["template"]
        return found

    before = template(config=REMOTE)
    server = yaml.safe_load(helm.render({"config": REMOTE}).config)["server"]
    assert server["watch_files_s"] == 10
    reloaded: list[Object] = [
        {**REMOTE, "tenants": [{"name": "t", "keys": []}]},
        {**REMOTE, "limits": {"queue_bytes": 1 << 30}},
        {**REMOTE, "server": {"ping_s": 5}},
    ]
    for config in reloaded:
        assert template(config=config) == before
    assert template(config=REMOTE, priceCatalog="rows:\n  - one\n") == before
    fixed: list[Object] = [
        {"config": {**REMOTE, "server": {"max_connections": 5}}},
        {"config": {**REMOTE, "ledger": {"backlog_rows": 5000}}},
        {"config": REMOTE, "tls": {"existingSecret": "s"}},
        {"config": REMOTE, "metrics": {"enabled": False}},
    ]
    for values in fixed:
        assert template(**values)["metadata"] != before["metadata"], values


@pytest.mark.parametrize("name", ["http", "console"])
def test_a_port_is_there_when_it_is_wanted(helm: Helm, name: str) -> None:
    values = {"config": REMOTE, name: {"enabled": True, "port": 80}}
    rendered = helm.render(values | {"networkPolicy": {"enabled": True}})
    (container,) = pod_of(rendered)["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    config = yaml.safe_load(rendered.config)
    assert config["server"][f"{name}_listen"] == f"[::]:{ports[name]}"
    for service, wanted in (("x-moegate", 80), ("x-moegate-headless", ports[name])):
        found = {port["name"]: port for port in rendered.one("Service", service)["spec"]["ports"]}
        assert (found[name]["port"], found[name]["appProtocol"]) == (wanted, "http")
    allowed = rendered.one("NetworkPolicy")["spec"]["ingress"][0]["ports"]
    assert {"port": ports[name]} in allowed
    without = yaml.safe_load(helm.render({"config": REMOTE}).config)
    assert f"{name}_listen" not in without["server"]


def test_people_sign_in_to_the_console_as_the_values_say(helm: Helm) -> None:
    rules = [{"value": "platform", "role": "operator", "tenant": "ops"}]
    secret = {"file": "../console/oidc-client-secret"}
    oidc: dict[str, Any] = {"issuer": "https://idp.example", "client_id": "moegate"}
    oidc |= {"rules": rules, "client_secret": secret}
    values = {"enabled": True, "existingSecret": "s", "publicUrl": "https://a.b", "oidc": oidc}
    rendered = helm.render({"config": REMOTE, "console": values})
    config = yaml.safe_load(rendered.config)["console"]
    assert config["oidc"] == oidc
    assert config["public_url"] == "https://a.b"
    pod = pod_of(rendered)
    mounts = {each["name"]: each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}
    folder = PurePosixPath(mounts["config"]) / config["session_secret"]["file"]
    assert folder.parent == PurePosixPath(mounts["config"]) / "../console"
    assert mounts["console"] == "/etc/moegate/console"
    (volume,) = (each for each in pod["volumes"] if each["name"] == "console")
    assert volume["secret"]["secretName"] == "s"
    without = helm.render({"config": REMOTE, "console": {"existingSecret": "s"}})
    assert "console" not in yaml.safe_load(without.config)


def test_the_grace_period_outlasts_the_longest_stream(helm: Helm) -> None:
    def remote(total_s: float | None) -> Object:
        (found,) = REMOTE["remotes"]
        timeouts = {} if total_s is None else {"timeouts": {"total_s": total_s}}
        return {"remotes": [found, {**found, "name": "s", "model": "n", **timeouts}]}

    for total_s, longest in ((None, 3600), (60.0, 3600), (7200.5, 7200.5)):
        rendered = helm.render({"config": remote(total_s)})
        config = yaml.safe_load(rendered.config)
        assert config["server"]["drain_s"] == longest
        assert pod_of(rendered)["terminationGracePeriodSeconds"] >= longest + 5 + 5
    shorter = {**remote(None), "server": {"drain_s": 100, "drain_delay_s": 20}}
    rendered = helm.render({"config": shorter})
    assert 125 <= pod_of(rendered)["terminationGracePeriodSeconds"] <= 160
    grace = helm.render({"config": shorter, "terminationGracePeriodSeconds": 130})
    assert pod_of(grace)["terminationGracePeriodSeconds"] == 130


def test_large_numbers_and_quoted_ones_stay_what_they_are(helm: Helm) -> None:
    config = {**REMOTE, "limits": {"queue_bytes": 999_999_999_999, "message_bytes": 1 << 25}}
    vllm = {"model": "m", "maxModelLen": 1_048_576}
    gpu = {"type": "H100", "count": 1, "usdPerGpuHour": "2.10"}
    rendered = helm.render({"config": config, "vllm": [{**vllm, "gpu": gpu}]})
    written = yaml.safe_load(rendered.config)
    assert written["limits"] == config["limits"]
    (pool,) = written["pools"]
    assert pool["context_tokens"] == 1_048_576
    assert pool["gpu"]["usd_per_gpu_hour"] == "2.10"
    pod = rendered.one("StatefulSet", "x-moegate-vllm")["spec"]["template"]["spec"]
    assert "--max-model-len=1048576" in pod["containers"][0]["args"]


Check = Callable[[Rendered], None]


def sqlite_on_a_volume(rendered: Rendered) -> None:
    deployment = rendered.one("Deployment")["spec"]
    assert deployment["strategy"] == {"type": "Recreate"}
    assert deployment["replicas"] == 1
    (volume,) = (v for v in pod_of(rendered)["volumes"] if v["name"] == "ledger")
    claim = rendered.one("PersistentVolumeClaim", "x-moegate-ledger")
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    ledger = yaml.safe_load(rendered.config)["ledger"]
    (container,) = pod_of(rendered)["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert ledger == {"sqlite": f"{mounts['ledger']}/ledger.sqlite3", "gateway": "x-moegate"}
    assert ("PodDisruptionBudget", "x-moegate") not in rendered.objects


def several_on_postgres(rendered: Rendered) -> None:
    deployment = rendered.one("Deployment")["spec"]
    assert deployment["replicas"] == 3
    assert deployment["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert rendered.one("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    egress = rendered.one("NetworkPolicy")["spec"]["egress"]
    ports = {port["port"] for rule in egress for port in rule["ports"]}
    assert ports == {53, 443, 5432, 4317}


def prices_in_a_file(rendered: Rendered) -> None:
    data = rendered.one("ConfigMap")["data"]
    catalog = yaml.safe_load(rendered.config)["prices"]["catalog"]
    assert data[catalog] == "rows:\n  - one\n"


def scaled_by_hpa(rendered: Rendered) -> None:
    assert "replicas" not in rendered.one("Deployment")["spec"]
    assert ("ScaledObject", "x-moegate") not in rendered.objects
    metrics = rendered.one("HorizontalPodAutoscaler")["spec"]["metrics"]
    assert {m["pods"]["metric"]["name"] for m in metrics} == AUTOSCALED


def scaled_by_keda(rendered: Rendered) -> None:
    assert ("HorizontalPodAutoscaler", "x-moegate") not in rendered.objects
    triggers = rendered.one("ScaledObject")["spec"]["triggers"]
    names = {t["metadata"]["query"].partition("(")[2].partition("{")[0] for t in triggers}
    assert names == AUTOSCALED


def pools_that_publish(rendered: Rendered) -> None:
    egress = rendered.one("NetworkPolicy")["spec"]["egress"]
    (ports,) = (
        [port["port"] for port in rule["ports"]]
        for rule in egress
        if {"port": 8000} in rule["ports"]
    )
    assert sorted(ports) == [*(5557, 5558, 5600, 5601, 7000, 7001, 7043, 7044, 8000, 9000, 9001)]


RUNBOOK = "https://wiki.example.com/moegate"


def watched(rendered: Rendered) -> None:
    rule = rendered.one("PrometheusRule")
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    alerts = (CHART / "alerts.yaml").read_text().replace("docs/runbook.md", RUNBOOK)
    assert rule["spec"] == yaml.safe_load(alerts)
    assert f"{RUNBOOK}#moegatedown" in alerts
    dashboard = rendered.one("ConfigMap", "x-moegate-dashboard")
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    shown = json.loads(dashboard["data"]["moegate.json"])
    assert shown == json.loads((CHART / "dashboards" / "moegate.json").read_text())
    assert rendered.one("PodMonitor")["spec"]["selector"]


def open_to_the_outside(rendered: Rendered) -> None:
    assert rendered.one("Service")["spec"]["type"] == "LoadBalancer"
    port, http = rendered.one("Service")["spec"]["ports"]
    assert (port["port"], port["appProtocol"]) == (443, "https")
    (way,) = rendered.one("HTTPRoute")["spec"]["rules"]
    assert way["backendRefs"] == [{"name": "x-moegate", "port": http["port"]}]
    assert rendered.one("Certificate")["spec"]["secretName"] == "x-moegate-tls"
    (rule,) = rendered.one("GRPCRoute")["spec"]["rules"]
    assert rule["backendRefs"] == [{"name": "x-moegate", "port": 443}]
    assert yaml.safe_load(rendered.config)["server"]["tls"]["client_ca"] == "../tls/ca.crt"


AUTOSCALED = {semconv.IN_FLIGHT.prometheus, semconv.QUEUE_DEPTH.prometheus}
SHARED: Object = {**REMOTE, **POSTGRES}
PUBLISHING: Object = {
    "name": "p",
    "model": "m",
    "gpu": {"type": "H100", "count": 2},
    "data_parallel_ranks": 2,
    "kv_events": {"replay_port": 5600},
    "grpc_port": 9000,
    "replicas": [
        {"name": "a", "url": "http://a:8000"},
        {"name": "b", "url": "http://b:8000", "kv_events_port": 7000, "grpc_port": 9001},
    ],
}
MATRIX: dict[str, tuple[Mapping[str, Any], Check]] = {
    "sqlite": (
        {"config": REMOTE, "ledger": {"persistence": {"enabled": True}}},
        sqlite_on_a_volume,
    ),
    "postgres": (
        {
            "config": SHARED,
            "replicaCount": 3,
            "networkPolicy": {"enabled": True},
            "otel": {"endpoint": "http://collector:4317"},
        },
        several_on_postgres,
    ),
    "prices": ({"config": REMOTE, "priceCatalog": "rows:\n  - one\n"}, prices_in_a_file),
    "hpa": ({"config": SHARED, "autoscaling": {"mode": "hpa"}}, scaled_by_hpa),
    "keda": (
        {
            "config": SHARED,
            "autoscaling": {"mode": "keda", "prometheusAddress": "http://prometheus:9090"},
        },
        scaled_by_keda,
    ),
    "events": (
        {"config": {"pools": [PUBLISHING]}, "networkPolicy": {"enabled": True}},
        pools_that_publish,
    ),
    "watched": (
        {
            "config": REMOTE,
            "podMonitor": {"enabled": True},
            "prometheusRule": {
                "enabled": True,
                "labels": {"release": "prometheus"},
                "runbookUrl": RUNBOOK,
            },
            "dashboard": {"enabled": True},
        },
        watched,
    ),
    "outside": (
        {
            "config": REMOTE,
            "service": {"type": "LoadBalancer", "port": 443},
            "tls": {
                "clientCa": True,
                "certManager": {"enabled": True, "issuerRef": {"name": "i", "kind": "Issuer"}},
            },
            "http": {"enabled": True},
            "grpcRoute": {"enabled": True, "parentRefs": [{"name": "gateway"}]},
            "httpRoute": {"enabled": True, "parentRefs": [{"name": "gateway"}]},
            "metrics": {"enabled": False},
        },
        open_to_the_outside,
    ),
}


@pytest.mark.parametrize("case", MATRIX)
def test_a_matrix_of_values(case: str, helm: Helm) -> None:
    values, check = MATRIX[case]
    rendered = helm.render(values)
    validate(rendered)
    check(rendered)


REFUSED: list[tuple[Mapping[str, Any], str]] = [
    ({}, "there is no server"),
    ({"config": REMOTE, "replicaCount": 2}, "more than one gateway needs the PostgreSQL ledger"),
    ({"config": REMOTE, "autoscaling": {"mode": "hpa"}}, "needs the PostgreSQL ledger"),
    (
        {"config": SHARED, "ledger": {"persistence": {"enabled": True}}},
        "nothing would be on the volume",
    ),
    ({"config": {**REMOTE, "server": {"listen": "[::]:1"}}}, "the chart sets it"),
    ({"config": {**REMOTE, "ledger": {"sqlite": "x"}}}, "the chart sets it: see ledger"),
    ({"config": REMOTE, "tls": {"clientCa": True}}, "there is no TLS"),
    ({"config": REMOTE, "tls": {"certManager": {"enabled": True}}}, "name the issuer"),
    ({"config": SHARED, "autoscaling": {"mode": "keda"}}, "give its address"),
    ({"config": SHARED, "autoscaling": {"mode": "both"}}, "autoscaling.mode"),
    ({"config": REMOTE, "podMonitor": {"enabled": True}, "metrics": {"enabled": False}}, "no page"),
    ({"config": REMOTE, "grpcRoute": {"enabled": True}}, "name the Gateway"),
    (
        {"config": SHARED, "replicaCount": 2, "console": {"enabled": True}},
        "console.existingSecret: several gateways share the sessions",
    ),
    (
        {"config": REMOTE, "console": {"enabled": True, "oidc": {"issuer": "https://a.b"}}},
        "console.oidc|client_id",
    ),
    ({"config": REMOTE, "httpRoute": {"enabled": True}}, "httpRoute.parentRefs: name the Gateway"),
    (
        {"config": REMOTE, "httpRoute": {"enabled": True, "parentRefs": [{"name": "g"}]}},
        "there is no HTTP port to lead to",
    ),
    ({"config": REMOTE, "terminationGracePeriodSeconds": 60}, "would cut streams"),
    ({"config": {"pools": [{"name": "x"}]}}, "model is required"),
    ({"config": {**REMOTE, "limitz": {}}}, "limitz"),
    ({"config": REMOTE, "replicas": 2}, "replicas"),
    ({"config": REMOTE, "secrets": [{"name": "A b", "secretName": "s"}]}, "secrets.0.name"),
    ({"config": REMOTE, "otel": {"endpoint": "collector:4317"}}, "otel.endpoint"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED)
def test_bad_values_are_refused_in_words(
    values: Mapping[str, Any], message: str, helm: Helm
) -> None:
    with pytest.raises(Refused, match=message):
        helm.render(values)
