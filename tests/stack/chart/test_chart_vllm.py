"""The chart's own vLLM servers: pods, several nodes, stages apart, volumes, scaling, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.doors.keda.trigger import limits_of
from gateway.doors.keda.trigger import pool_of as pool_named
from moegate.up.engine_plugin import COUNT_EXPERTS
from moegate.up.engine_plugin import FLAGS as PLUGIN_FLAGS
from scheduler.overflow.replica_count import ReplicaLimits
from tests.stack.chart.cluster_api import STATEFUL_SETS, cluster_api
from tests.stack.chart.helm import Helm, Object, Refused, Rendered
from tests.stack.chart.test_chart import KUBERNETES, pod_of, restricted, validate

GPU: Object = {"type": "H200", "count": 8}
VLLM: Object = {"model": "org/model", "gpu": {"type": "H100", "count": 1}}
SET = "x-moegate-vllm"


def server_of(rendered: Rendered, kind: str = "StatefulSet", name: str = SET) -> Object:
    """vLLM's container."""
    (server,) = rendered.one(kind, name)["spec"]["template"]["spec"]["containers"]
    return dict(server)


def pool_of(rendered: Rendered) -> Object:
    (pool,) = yaml.safe_load(rendered.config)["pools"]
    return dict(pool)


def vllm_over_eight_ranks(rendered: Rendered) -> None:
    stateful = rendered.one("StatefulSet", "x-moegate-vllm")["spec"]
    pod = stateful["template"]["spec"]
    (server,) = pod["containers"]
    args = server["args"]
    assert "--enable-expert-parallel" in args
    assert "--data-parallel-size=8" in args
    assert "--host=::" in args, "a socket on 0.0.0.0 is closed to IPv6"
    (events,) = (a for a in args if a.startswith("--kv-events-config="))
    published = json.loads(events.partition("=")[2])
    assert published["endpoint"] == "tcp://*:6000"
    assert published["replay_endpoint"] == "tcp://*:6008"
    assert server["resources"]["limits"] == {"nvidia.com/gpu": 8, "memory": "900Gi"}
    (shutdown,) = (a for a in args if a.startswith("--shutdown-timeout="))
    drained_s = int(shutdown.partition("=")[2]) + int(
        server["lifecycle"]["preStop"]["exec"]["command"][1]
    )
    assert pod["terminationGracePeriodSeconds"] > drained_s
    probe = server["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 3600
    policy = rendered.one("NetworkPolicy", "x-moegate-vllm")["spec"]["ingress"]
    assert [(p["port"], p.get("endPort")) for rule in policy for p in rule["ports"]] == [
        (8000, None),
        (6000, 6015),
    ]
    service = rendered.one("Service", "x-moegate-vllm")["spec"]
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"] is False
    assert sorted(p["port"] for p in service["ports"]) == [*range(6000, 6016), 8000]
    (pool,) = yaml.safe_load(rendered.config)["pools"]
    assert pool["discover"]["dns"] == "x-moegate-vllm.models.svc"
    assert pool["discover"]["max_replicas"] == 24
    assert (pool["data_parallel_ranks"], pool["pin_ranks"]) == (8, True)
    assert pool["kv_events"] == {"port": 6000, "replay_port": 6008, "topic": published["topic"]}
    (egress,) = (
        rule["ports"]
        for rule in rendered.one("NetworkPolicy")["spec"]["egress"]
        if {"port": 8000} in rule["ports"]
    )
    assert {"port": 6000, "endPort": 6015} in egress
    assert pool["api_key"] == {"file": "../secrets/vllm/api-key"}
    mounts = {m["name"]: m["mountPath"] for m in pod_of(rendered)["containers"][0]["volumeMounts"]}
    assert mounts["key-of-vllm"] == "/etc/moegate/secrets/vllm"
    # The plugin: copied to where vLLM's Python looks for it, and read by the gateway.
    (copying,) = pod["initContainers"]
    folder = copying["command"][-1]
    assert copying["command"][:-1] == ["python", "-m", "moegate.up.engine_plugin"]
    assert copying["image"] == pod_of(rendered)["containers"][0]["image"]
    assert {"name": "PYTHONPATH", "value": folder} in server["env"]
    for container in (copying, server):
        paths = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
        assert folder.startswith(paths["plugin"])
    assert {"name": "plugin", "emptyDir": {}} in pod["volumes"]
    assert set(PLUGIN_FLAGS) <= set(args)
    assert {"name": COUNT_EXPERTS, "value": "1"} in server["env"]
    assert "engine_feed" not in pool


def away_one_at_a_time(rendered: Rendered) -> None:
    budget = rendered.one("PodDisruptionBudget", SET)["spec"]
    assert budget["maxUnavailable"] == 1
    found = rendered.one("StatefulSet", SET)["spec"]
    labels = found["template"]["metadata"]["labels"]
    assert budget["selector"]["matchLabels"].items() <= labels.items()
    assert found["updateStrategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": 1},
    }
    (spread,) = found["template"]["spec"]["topologySpreadConstraints"]
    assert spread["topologyKey"] == "kubernetes.io/hostname"
    assert spread["labelSelector"]["matchLabels"].items() <= labels.items()


def as_a_platform_wants_it(rendered: Rendered) -> None:
    template = rendered.one("StatefulSet", SET)["spec"]["template"]
    assert template["metadata"]["labels"]["team"] == "search"
    assert template["metadata"]["annotations"] == {"scrape": "no"}
    pod = template["spec"]
    assert pod["priorityClassName"] == "serving"
    assert [one["name"] for one in pod["initContainers"]] == ["warm"]
    assert [one["name"] for one in pod["containers"]] == ["vllm", "exporter"]
    server = pod["containers"][0]
    assert server["image"] == "vllm/vllm-openai@sha256:" + "a" * 64
    assert server["livenessProbe"]["failureThreshold"] == 9
    assert server["livenessProbe"]["httpGet"]["path"] == "/health"
    assert {"name": "own", "mountPath": "/own"} in server["volumeMounts"]
    assert {"name": "own", "emptyDir": {}} in pod["volumes"]
    assert rendered.one("StatefulSet", SET)["spec"]["updateStrategy"] == {"type": "OnDelete"}
    assert ("PodDisruptionBudget", SET) not in rendered.objects


def weights_on_a_shared_volume(rendered: Rendered) -> None:
    pod = rendered.one("StatefulSet", SET)["spec"]["template"]["spec"]
    claim = {"name": "models", "persistentVolumeClaim": {"claimName": "weights"}}
    assert claim in pod["volumes"]
    (server,) = pod["containers"]
    assert {"name": "models", "mountPath": "/models", "readOnly": True} in server["volumeMounts"]
    assert server["args"][0] == "/models/org/model"
    job = rendered.one("Job", "x-moegate-vllm-preload")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    (download,) = job["spec"]["template"]["spec"]["containers"]
    assert download["args"] == ["org/model", "--revision=abc", "--local-dir=/models/org/model"]
    assert {"name": "models", "mountPath": "/models"} in download["volumeMounts"]
    assert claim in job["spec"]["template"]["spec"]["volumes"]


def claimed_by_dra(rendered: Rendered) -> None:
    pod = rendered.one("StatefulSet", SET)["spec"]["template"]["spec"]
    assert pod["resourceClaims"] == [{"name": "gpus", "resourceClaimTemplateName": "eight-h200"}]
    (server,) = pod["containers"]
    assert server["resources"]["claims"] == [{"name": "gpus"}]
    assert "limits" not in server["resources"]


def several_models(rendered: Rendered) -> None:
    pools = yaml.safe_load(rendered.config)["pools"]
    assert [(pool["name"], pool["model"]) for pool in pools] == [("big", "b"), ("small", "s")]
    for pool in pools:
        name = f"x-moegate-{pool['name']}"
        found = rendered.one("StatefulSet", name)["spec"]
        wanted = found["selector"]["matchLabels"]
        assert rendered.one("Service", name)["spec"]["selector"] == wanted
        assert wanted["moegate-pool"] == pool["name"]
        assert pool["discover"]["dns"] == f"{name}.models.svc"
        key = {"file": f"../secrets/{pool['name']}/api-key"}
        assert pool["api_key"] == key
        mounts = {m["mountPath"] for m in pod_of(rendered)["containers"][0]["volumeMounts"]}
        assert f"/etc/moegate/secrets/{pool['name']}" in mounts
        # What the defaults say holds for both, unless an item says otherwise.
        assert pool["max_num_seqs"] == {"big": 64, "small": 16}[pool["name"]]
        assert ("NetworkPolicy", name) in rendered.objects


def ranks_over_nodes(rendered: Rendered) -> None:
    group = rendered.one("LeaderWorkerSet", SET)["spec"]
    assert ("StatefulSet", SET) not in rendered.objects
    assert (group["replicas"], group["leaderWorkerTemplate"]["size"]) == (2, 4)
    leader, worker = (
        group["leaderWorkerTemplate"][f"{role}Template"]["spec"] for role in ("leader", "worker")
    )
    for pod in (leader, worker):
        restricted(pod)
        (container,) = pod["containers"]
        assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
        assert "--data-parallel-size=32" in container["args"]
        assert "--data-parallel-size-local=8" in container["args"]
        assert "--data-parallel-address=$(LWS_LEADER_ADDRESS)" in container["args"]
    assert leader["containers"][0]["command"] == ["vllm", "serve"]
    assert "--port=8000" in leader["containers"][0]["args"]
    assert "--headless" in worker["containers"][0]["args"]
    assert "readinessProbe" not in worker["containers"][0]
    # The gateway and the disruption budget know leaders only.
    index = {"leaderworkerset.sigs.k8s.io/worker-index": "0"}
    service = rendered.one("Service", SET)["spec"]["selector"]
    assert index.items() <= service.items()
    budget = rendered.one("PodDisruptionBudget", SET)["spec"]["selector"]["matchLabels"]
    assert index.items() <= budget.items()
    among = rendered.one("NetworkPolicy", SET)["spec"]["ingress"][-1]
    assert "ports" not in among, "nodes of a server use ports that nobody knows before"
    pool = pool_of(rendered)
    assert (pool["gpu"]["count"], pool["data_parallel_ranks"]) == (32, 32)


def one_rank_over_nodes(rendered: Rendered) -> None:
    group = rendered.one("LeaderWorkerSet", SET)["spec"]["leaderWorkerTemplate"]
    for role in ("leader", "worker"):
        (container,) = group[f"{role}Template"]["spec"]["containers"]
        assert container["command"] == ["vllm", "serve"]
        for flag in (
            *("--nnodes=2", "--node-rank=$(LWS_WORKER_INDEX)"),
            *("--tensor-parallel-size=8", "--pipeline-parallel-size=2"),
        ):
            assert flag in container["args"]


def stages_apart(rendered: Rendered) -> None:
    pool = pool_of(rendered)
    assert pool["disaggregated"] == {"prefill": 1, "decode": 2}
    assert pool["gpu"]["count"] == 24
    (pair,) = pool["replicas"]
    assert pair["url"] == "http://x-moegate-vllm-proxy.models.svc:8000"
    engines = {
        stage: [
            f"http://{SET}-{stage}-{index}.{SET}-{stage}.models.svc:8000" for index in range(count)
        ]
        for stage, count in (("prefill", 1), ("decode", 2))
    }
    assert pair["engines"] == engines
    selectors = []
    for stage, count in (("prefill", 1), ("decode", 2)):
        found = rendered.one("StatefulSet", f"{SET}-{stage}")["spec"]
        assert (found["replicas"], found["serviceName"]) == (count, f"{SET}-{stage}")
        selectors.append(found["selector"]["matchLabels"])
        assert rendered.one("Service", f"{SET}-{stage}")["spec"]["selector"] == selectors[-1]
        (server,) = found["template"]["spec"]["containers"]
        (transfer,) = (a for a in server["args"] if a.startswith("--kv-transfer-config="))
        assert json.loads(transfer.partition("=")[2])["kv_connector"] == "NixlConnector"
    assert selectors[0] != selectors[1]
    proxy = rendered.one("Deployment", "x-moegate-vllm-proxy")["spec"]["template"]
    restricted(proxy["spec"])
    (container,) = proxy["spec"]["containers"]
    told = container["args"][-6:]
    assert told == ["--prefill", *engines["prefill"]] + [
        part for url in engines["decode"] for part in ("--decode", url)
    ]


def found_in_endpoint_slices(rendered: Rendered) -> None:
    pools = {pool["name"]: pool for pool in yaml.safe_load(rendered.config)["pools"]}
    wanted = {"service": SET, "namespace": "models"}
    found = {"port": 8000, "max_replicas": 16, "endpoint_slices": wanted}
    assert pools["vllm"]["discover"] == found
    pod = pod_of(rendered)
    assert pod["automountServiceAccountToken"] is True
    for namespace in ("models", "elsewhere"):
        name = f"x-moegate-slices-of-{namespace}"
        role, binding = (rendered.one(kind, name) for kind in ("Role", "RoleBinding"))
        assert role["metadata"]["namespace"] == binding["metadata"]["namespace"] == namespace
        assert role["rules"] == [
            {
                "apiGroups": ["discovery.k8s.io"],
                "resources": ["endpointslices"],
                "verbs": ["list", "watch"],
            }
        ]
        assert binding["roleRef"]["name"] == role["metadata"]["name"]
        (subject,) = binding["subjects"]
        assert (subject["name"], subject["namespace"]) == (pod["serviceAccountName"], "models")
    egress = rendered.one("NetworkPolicy", "x-moegate")["spec"]["egress"]
    assert {"ports": [{"port": 443}, {"port": 6443}]} in egress


def scaled_from_none(rendered: Rendered) -> None:
    assert "replicas" not in rendered.one("StatefulSet", SET)["spec"]
    scaled = rendered.one("ScaledObject", SET)["spec"]
    assert scaled["scaleTargetRef"] == {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "name": SET,
    }
    assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (0, 6)
    queries = [trigger["metadata"]["query"] for trigger in scaled["triggers"]]
    assert all('namespace="models"' in query for query in queries)
    assert 'moegate_pool="vllm"' in queries[0]
    assert 'gen_ai_request_model="org/model"' in queries[2]
    assert scaled["triggers"][2]["metadata"]["activationThreshold"] == "0"
    assert pool_of(rendered)["discover"]["start_s"] == 3600
    assert rendered.one("PodDisruptionBudget", SET)["spec"]["maxUnavailable"] == 1


def scaled_by_money(rendered: Rendered) -> None:
    scaled = rendered.one("ScaledObject", SET)["spec"]
    (trigger,) = scaled["triggers"]
    assert trigger["type"] == "external"
    told = trigger["metadata"]
    address = told.pop("scalerAddress")
    assert pool_of(rendered)["name"] == pool_named(told)
    assert limits_of(told) == ReplicaLimits(least=1, most=6, margin=0.1, down_window_s=900.0)
    behavior = scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] == 0, "the gateway has the window"
    service = rendered.one("Service", "x-moegate")
    ports = {port["name"]: port for port in service["spec"]["ports"]}
    assert address == f"x-moegate.models:{ports['scaler']['port']}"
    (container,) = pod_of(rendered)["containers"]
    numbers = {port["name"]: port["containerPort"] for port in container["ports"]}
    server = yaml.safe_load(rendered.config)["server"]
    assert server["scaler_listen"] == f"[::]:{numbers[ports['scaler']['targetPort']]}"
    ingress = rendered.one("NetworkPolicy", "x-moegate")["spec"]["ingress"]
    (rule,) = [r for r in ingress if {"port": numbers["scaler"]} in r["ports"]]
    assert rule["from"] == [{"namespaceSelector": {}}]


Check = Callable[[Rendered], None]
MATRIX: dict[str, tuple[Mapping[str, Any], Check]] = {
    "ranks": (
        {
            "networkPolicy": {"enabled": True},
            "vllm": [
                {
                    "model": "org/model",
                    "replicas": 12,
                    "gpu": GPU,
                    "dataParallelSize": 8,
                    "pinRanks": True,
                    "apiKey": {"existingSecret": "s", "key": "k"},
                    "kvEvents": {"enabled": True, "port": 6000},
                    "engineFeed": {"enabled": True, "countExperts": True},
                    "resources": {"limits": {"memory": "900Gi"}},
                }
            ],
        },
        vllm_over_eight_ranks,
    ),
    "two servers": ({"vllm": [{**VLLM, "replicas": 2}]}, away_one_at_a_time),
    "platform": (
        {
            "vllm": [
                {
                    **VLLM,
                    "image": {"digest": "sha256:" + "a" * 64},
                    "priorityClassName": "serving",
                    "podLabels": {"team": "search"},
                    "podAnnotations": {"scrape": "no"},
                    "updateStrategy": {"type": "OnDelete"},
                    "probes": {"liveness": {"failureThreshold": 9}},
                    "initContainers": [{"name": "warm", "image": "warm:1"}],
                    "sidecars": [{"name": "exporter", "image": "exporter:1"}],
                    "extraVolumes": [{"name": "own", "emptyDir": {}}],
                    "extraVolumeMounts": [{"name": "own", "mountPath": "/own"}],
                }
            ],
        },
        as_a_platform_wants_it,
    ),
    "weights": (
        {
            "vllm": [
                {
                    **VLLM,
                    "model": "/models/org/model",
                    "modelVolume": {"source": {"persistentVolumeClaim": {"claimName": "weights"}}},
                    "preload": {"enabled": True, "model": "org/model", "revision": "abc"},
                }
            ]
        },
        weights_on_a_shared_volume,
    ),
    "dra": (
        {
            "vllm": [
                {
                    **VLLM,
                    "gpu": {**GPU, "resource": ""},
                    "tensorParallelSize": 8,
                    "resourceClaims": [{"name": "gpus", "resourceClaimTemplateName": "eight-h200"}],
                }
            ]
        },
        claimed_by_dra,
    ),
    "models": (
        {
            "networkPolicy": {"enabled": True},
            "podMonitor": {"enabled": True},
            "vllmDefaults": {
                "maxNumSeqs": 64,
                "apiKey": {"existingSecret": "s", "key": "k"},
            },
            "vllm": [
                {**VLLM, "name": "big", "servedModelName": "b"},
                {**VLLM, "name": "small", "servedModelName": "s", "maxNumSeqs": 16},
            ],
        },
        several_models,
    ),
    "nodes": (
        {
            "networkPolicy": {"enabled": True},
            "vllm": [
                {
                    **VLLM,
                    "replicas": 2,
                    "nodes": 4,
                    "gpu": {**GPU, "count": 32},
                    "dataParallelSize": 32,
                }
            ],
        },
        ranks_over_nodes,
    ),
    "one rank": (
        {
            "vllm": [
                {
                    **VLLM,
                    "nodes": 2,
                    "gpu": {**GPU, "count": 16},
                    "tensorParallelSize": 8,
                    "pipelineParallelSize": 2,
                }
            ]
        },
        one_rank_over_nodes,
    ),
    "stages": (
        {
            "networkPolicy": {"enabled": True},
            "vllm": [
                {
                    **VLLM,
                    "gpu": GPU,
                    "tensorParallelSize": 8,
                    "disaggregated": {
                        "enabled": True,
                        "decode": 2,
                        "proxy": {"image": "vllm-router:1"},
                    },
                }
            ],
        },
        stages_apart,
    ),
    "endpoint slices": (
        {
            "networkPolicy": {"enabled": True},
            "vllm": [{**VLLM, "discovery": "endpointSlices"}],
            "config": {
                "pools": [
                    {
                        "name": "other",
                        "model": "o",
                        "gpu": {"type": "H100", "count": 1},
                        "discover": {
                            "port": 8000,
                            "endpoint_slices": {"service": "o", "namespace": "elsewhere"},
                        },
                    }
                ]
            },
        },
        found_in_endpoint_slices,
    ),
    "scaled": (
        {
            "vllm": [
                {
                    **VLLM,
                    "autoscaling": {
                        "mode": "keda",
                        "minReplicas": 0,
                        "maxReplicas": 6,
                        "prometheusAddress": "http://prometheus:9090",
                    },
                }
            ]
        },
        scaled_from_none,
    ),
    "scaled by money": (
        {
            "networkPolicy": {"enabled": True, "scalers": [{"namespaceSelector": {}}]},
            "vllm": [
                {
                    **VLLM,
                    "gpu": {"type": "H100", "count": 1, "usdPerGpuHour": "2.50"},
                    "autoscaling": {
                        "mode": "money",
                        "maxReplicas": 6,
                        "margin": 0.1,
                        "scaleDownWindowSeconds": 900,
                    },
                }
            ],
        },
        scaled_by_money,
    ),
}


@pytest.mark.parametrize("case", MATRIX)
def test_a_matrix_of_servers(case: str, helm: Helm) -> None:
    values, check = MATRIX[case]
    rendered = helm.render(values)
    # A claim has had its fields since 1.31.
    validate(rendered, KUBERNETES[2:] if case == "dra" else KUBERNETES)
    check(rendered)


SHARED_VOLUME: Object = {"source": {"persistentVolumeClaim": {"claimName": "w"}}}
PRICED: Object = {"gpu": {"type": "H100", "count": 1, "usdPerGpuHour": "2.50"}}
REFUSED: list[tuple[Object, str]] = [
    ({"model": ""}, "name the model"),
    ({"gpu": {"type": "", "count": 1}}, "name the GPU"),
    ({"dataParallelSize": 8}, "pipelineParallelSize is 8"),
    ({"pinRanks": True}, "there is one rank, and nothing to choose from"),
    ({"engineFeed": {"enabled": True}}, "set apiKey"),
    ({"engineFeed": {"countExperts": True}}, "set engineFeed.enabled"),
    ({"nodes": 3, "gpu": GPU, "tensorParallelSize": 8}, "cannot have 8 GPUs in equal parts"),
    (
        {"nodes": 4, "gpu": {**GPU, "count": 8}, "dataParallelSize": 2, "tensorParallelSize": 4},
        "cannot have 2 data-parallel ranks in equal parts",
    ),
    (
        {"nodes": 2, "gpu": GPU, "dataParallelSize": 8, "kvEvents": {"enabled": True}},
        "leave it off with several nodes",
    ),
    ({"disaggregated": {"enabled": True}}, "name the image of the proxy"),
    (
        {
            "disaggregated": {"enabled": True, "proxy": {"image": "p"}},
            "kvEvents": {"enabled": True},
        },
        "not read of engines behind a proxy",
    ),
    ({"model": "/models/m"}, "no volume is mounted at /models/m"),
    ({"preload": {"enabled": True, "model": "m"}}, "give modelVolume.source"),
    (
        {"model": "/models/m", "modelVolume": SHARED_VOLUME, "preload": {"enabled": True}},
        "name the model on the hub",
    ),
    ({"autoscaling": {"mode": "keda"}}, "give its address"),
    ({"autoscaling": {"mode": "money"}}, "give gpu.usdPerGpuHour"),
    (
        {**PRICED, "autoscaling": {"mode": "money", "minReplicas": 5}},
        "minReplicas: more than maxReplicas",
    ),
    ({"name": "ledger"}, "the end of the name of another object"),
    ({"modle": "m"}, "modle"),
]


@pytest.mark.parametrize(("item", "message"), REFUSED)
def test_servers_that_contradict_themselves_are_refused_in_words(
    item: Object, message: str, helm: Helm
) -> None:
    with pytest.raises(Refused, match=message):
        helm.render({"vllm": [{**VLLM, **item}]})


def test_several_gateways_cannot_scale_by_money(helm: Helm) -> None:
    values = {
        "replicaCount": 2,
        "config": {"ledger": {"postgres": {"file": "/p"}}},
        "vllm": [{**VLLM, **PRICED, "autoscaling": {"mode": "money"}}],
    }
    with pytest.raises(Refused, match="money needs one scheduler"):
        helm.render(values)


def test_two_pools_of_one_name_and_the_older_form_are_refused(helm: Helm) -> None:
    with pytest.raises(Refused, match=r"vllm\[1\].name: another pool is called vllm"):
        helm.render({"vllm": [VLLM, VLLM]})
    with pytest.raises(Refused, match="vllm"):
        helm.render({"vllm": {"enabled": True, **VLLM}})


def test_a_resized_cache_is_refused_before_the_upgrade(new_helm: Helm, tmp_path: Path) -> None:
    values = {"vllm": [{**VLLM, "cache": {"size": "2Ti"}}]}
    found = new_helm.render(values).one("StatefulSet", SET)
    owned = {"meta.helm.sh/release-name": "x", "meta.helm.sh/release-namespace": "models"}
    placed = {"namespace": "models", "annotations": owned}
    found = {**found, "metadata": {**found["metadata"], **placed}}
    with cluster_api({f"{STATEFUL_SETS}/{SET}": found}, tmp_path) as cluster:
        assert new_helm.render(values, cluster=cluster).one("StatefulSet", SET)
        for cache, wanted in (({"size": "3Ti"}, '"3Ti"'), ({"enabled": False}, '"none"')):
            with pytest.raises(Refused) as refused:
                new_helm.render({"vllm": [{**VLLM, "cache": cache}]}, cluster=cluster)
            text = str(refused.value)
            assert 'vllm[0].cache.size: the servers have "2Ti"' in text
            assert wanted in text
            assert f"kubectl --namespace models delete statefulset {SET} --cascade=orphan" in text
    with cluster_api({}, tmp_path) as empty:
        assert new_helm.render(values, cluster=empty).one("StatefulSet", SET)
