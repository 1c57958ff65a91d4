"""Closed schemas of the objects of other projects that the chart renders: the fields it may use.

`kubernetes-validate` knows only Kubernetes' own kinds.
"""

from __future__ import annotations

from typing import Any

import jsonschema

Schema = dict[str, Any]
TEXT: Schema = {"type": "string", "minLength": 1}
LABELS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
DURATION: Schema = {"type": "string", "pattern": "^([0-9]+(h|m|s|ms))+$"}


def closed(required: dict[str, Schema], **optional: Schema) -> Schema:
    return {
        "type": "object",
        "properties": {**required, **optional},
        "required": list(required),
        "additionalProperties": False,
    }


def items(schema: Schema) -> Schema:
    return {"type": "array", "items": schema, "minItems": 1}


SELECTOR = closed({"matchLabels": LABELS})
SCALE_DOWN = closed(
    {
        "stabilizationWindowSeconds": {"type": "integer", "minimum": 0, "maximum": 3600},
        "policies": items(
            closed(
                {
                    "type": {"enum": ["Pods", "Percent"]},
                    "value": {"type": "integer", "minimum": 1},
                    "periodSeconds": {"type": "integer", "minimum": 1, "maximum": 1800},
                }
            )
        ),
    }
)
RULE = closed({"expr": TEXT}, annotations=LABELS, labels=LABELS, alert=TEXT, record=TEXT)
RULE["properties"]["for"] = DURATION

TRIGGER_FIELDS: dict[str, Schema] = {
    "serverAddress": TEXT,
    "query": TEXT,
    "threshold": TEXT,
}
PROMETHEUS_TRIGGER = closed(
    {
        "type": {"const": "prometheus"},
        "metadata": closed(
            TRIGGER_FIELDS,
            activationThreshold=TEXT,
            ignoreNullValues={"enum": ["true", "false"]},
        ),
    },
    metricType={"enum": ["AverageValue", "Value"]},
)
EXTERNAL_TRIGGER = closed(
    {
        "type": {"const": "external"},
        # Beside the address KEDA passes on whatever texts stand there.
        "metadata": {
            "type": "object",
            "required": ["scalerAddress"],
            "additionalProperties": TEXT,
        },
    }
)
POD_TEMPLATE = closed(
    {
        "metadata": closed({"labels": LABELS}, annotations=LABELS),
        "spec": {"type": "object", "required": ["containers"]},
    }
)
LEADER_WORKER_SET = closed(
    {
        "leaderWorkerTemplate": closed(
            {
                "size": {"type": "integer", "minimum": 1},
                "restartPolicy": {"enum": ["RecreateGroupOnPodRestart", "None"]},
                "leaderTemplate": POD_TEMPLATE,
                "workerTemplate": POD_TEMPLATE,
            }
        ),
        "rolloutStrategy": closed(
            {
                "type": {"const": "RollingUpdate"},
                "rollingUpdateConfiguration": closed(
                    {
                        "maxUnavailable": {"type": ["integer", "string"]},
                        "maxSurge": {"type": ["integer", "string"]},
                    }
                ),
            }
        ),
        "startupPolicy": {"enum": ["LeaderCreated", "LeaderReady"]},
    },
    replicas={"type": "integer", "minimum": 0},
)

CPU_TRIGGER = closed(
    {"type": {"const": "cpu"}, "metadata": closed({"value": TEXT})},
    metricType={"enum": ["AverageValue", "Utilization"]},
)
SPECS: dict[tuple[str, str], Schema] = {
    ("monitoring.coreos.com/v1", "PodMonitor"): closed(
        {
            "selector": SELECTOR,
            "podMetricsEndpoints": items(
                closed({"port": TEXT}, path=TEXT, interval=DURATION, scheme=TEXT)
            ),
        },
        podTargetLabels=items(TEXT),
    ),
    ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"): LEADER_WORKER_SET,
    ("monitoring.coreos.com/v1", "PrometheusRule"): closed(
        {"groups": items(closed({"name": TEXT, "rules": items(RULE)}, interval=DURATION))}
    ),
    ("keda.sh/v1alpha1", "ScaledObject"): closed(
        {
            "scaleTargetRef": closed({"name": TEXT}, apiVersion=TEXT, kind=TEXT),
            "triggers": items({"anyOf": [PROMETHEUS_TRIGGER, CPU_TRIGGER, EXTERNAL_TRIGGER]}),
        },
        cooldownPeriod={"type": "integer", "minimum": 0},
        minReplicaCount={"type": "integer", "minimum": 0},
        maxReplicaCount={"type": "integer", "minimum": 1},
        advanced=closed(
            {
                "horizontalPodAutoscalerConfig": closed(
                    {"behavior": closed({"scaleDown": SCALE_DOWN})}
                )
            }
        ),
    ),
    ("gateway.networking.k8s.io/v1", "GRPCRoute"): closed(
        {
            "parentRefs": items(closed({"name": TEXT}, namespace=TEXT, sectionName=TEXT)),
            "rules": items(
                closed({"backendRefs": items(closed({"name": TEXT, "port": {"type": "integer"}}))})
            ),
        },
        hostnames=items(TEXT),
    ),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): closed(
        {
            "parentRefs": items(closed({"name": TEXT}, namespace=TEXT, sectionName=TEXT)),
            "rules": items(
                closed(
                    {"backendRefs": items(closed({"name": TEXT, "port": {"type": "integer"}}))},
                    matches=items(closed({"path": closed({"type": TEXT, "value": TEXT})})),
                    timeouts=closed({"request": DURATION}),
                )
            ),
        },
        hostnames=items(TEXT),
    ),
    ("cert-manager.io/v1", "Certificate"): closed(
        {
            "secretName": TEXT,
            "issuerRef": closed({"name": TEXT}, kind=TEXT, group=TEXT),
            "dnsNames": items(TEXT),
        },
        duration=DURATION,
        renewBefore=DURATION,
        privateKey=closed(
            {"algorithm": {"enum": ["RSA", "ECDSA", "Ed25519"]}},
            size={"type": "integer"},
            rotationPolicy={"enum": ["Never", "Always"]},
        ),
        usages=items({"enum": ["server auth", "client auth", "digital signature"]}),
    ),
}


def validate(found: dict[str, Any]) -> None:
    """Raises jsonschema.ValidationError; KeyError for a kind that is not known here."""
    spec = SPECS[found["apiVersion"], found["kind"]]
    metadata = closed({"name": TEXT, "labels": LABELS})
    known: Schema = {"apiVersion": TEXT, "kind": TEXT, "metadata": metadata, "spec": spec}
    jsonschema.validate(found, closed(known))
