{{/* Values that contradict each other. The gateway itself checks what lies within its configuration. */}}
{{- define "moegate.refusals" -}}
{{- $config := .Values.config -}}
{{/* `required` and not `fail`: `helm lint` of the bare defaults lets it pass. */}}
{{- $served := ternary "" "yes" (empty (or $config.pools $config.remotes .Values.vllm)) -}}
{{- $_ := required "\nconfig: there is no server: give config.pools or config.remotes, or servers in vllm" $served -}}
{{- range $field := list "listen" "health_listen" "http_listen" "console_listen" "scaler_listen" "tls" -}}
{{- if hasKey (dig "server" dict $config) $field -}}
{{- fail (printf "\nconfig.server.%s: the chart sets it: remove it (see service, http, console, tls, vllm[].autoscaling)" $field) -}}
{{- end -}}
{{- end -}}
{{- if hasKey (dig "telemetry" dict $config) "metrics_listen" -}}
{{- fail "\nconfig.telemetry.metrics_listen: the chart sets it: use metrics.enabled and metrics.port" -}}
{{- end -}}
{{- if hasKey (dig "ledger" dict $config) "sqlite" -}}
{{- fail "\nconfig.ledger.sqlite: the chart sets it: see ledger.persistence" -}}
{{- end -}}
{{- if and (include "moegate.isShared" .) (ne (include "moegate.ledgerKind" .) "postgres") -}}
{{- fail (printf "\nreplicaCount %d, autoscaling.mode %s: more than one gateway needs the PostgreSQL ledger, because budgets would not hold between them: set config.ledger.postgres, or keep one replica" (int .Values.replicaCount) .Values.autoscaling.mode) -}}
{{- end -}}
{{- if and .Values.console.enabled (or .Values.cluster.enabled (include "moegate.isShared" .)) (not .Values.console.existingSecret) -}}
{{- fail "\nconsole.existingSecret: several gateways share the sessions of the console, and so their secret: name a Secret with session-secret" -}}
{{- end -}}
{{- if and .Values.console.oidc (not .Values.console.publicUrl) -}}
{{- fail "\nconsole.publicUrl: the OIDC provider sends people back there: give the address of the console in browsers" -}}
{{- end -}}
{{- if hasKey $config "cluster" -}}
{{- fail "\nconfig.cluster: the chart sets it: see cluster" -}}
{{- end -}}
{{- if .Values.cluster.enabled -}}
{{- if ne (include "moegate.ledgerKind" .) "postgres" -}}
{{- fail "\ncluster.enabled: the leader is chosen in PostgreSQL: set config.ledger.postgres; SQLite is for one replica, without a standby" -}}
{{- end -}}
{{- $tls := .Values.cluster.tls -}}
{{- if eq (empty $tls.existingSecret) (not $tls.certManager.enabled) -}}
{{- fail "\ncluster.tls: the gateways need certificates for each other: give existingSecret, or certManager.enabled, and not both" -}}
{{- end -}}
{{- if and $tls.certManager.enabled (not $tls.certManager.issuerRef.name) -}}
{{- fail "\ncluster.tls.certManager.issuerRef.name: name the issuer" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.ledger.persistence.enabled (eq (include "moegate.ledgerKind" .) "postgres") -}}
{{- fail "\nledger.persistence.enabled: the ledger is in PostgreSQL (config.ledger): nothing would be on the volume" -}}
{{- end -}}
{{- if and (not .Values.serviceAccount.create) .Values.serviceAccount.annotations -}}
{{- fail "\nserviceAccount.annotations: there is no account of the chart's to annotate: set serviceAccount.create" -}}
{{- end -}}
{{- if and .Values.tls.existingSecret .Values.tls.certManager.enabled -}}
{{- fail "\ntls: existingSecret and certManager.enabled are both set: keep one" -}}
{{- end -}}
{{- if and .Values.tls.clientCa (not (include "moegate.tlsSecret" .)) -}}
{{- fail "\ntls.clientCa: there is no TLS: set tls.existingSecret or tls.certManager.enabled" -}}
{{- end -}}
{{- if and .Values.tls.certManager.enabled (not .Values.tls.certManager.issuerRef.name) -}}
{{- fail "\ntls.certManager.issuerRef.name: name the issuer" -}}
{{- end -}}
{{- if and (eq .Values.autoscaling.mode "keda") (not .Values.autoscaling.prometheusAddress) -}}
{{- fail "\nautoscaling.prometheusAddress: keda asks Prometheus: give its address" -}}
{{- end -}}
{{- if and (ne .Values.autoscaling.mode "none") (not .Values.metrics.enabled) -}}
{{- fail "\nautoscaling.mode: it follows the metrics: set metrics.enabled" -}}
{{- end -}}
{{- if gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas) -}}
{{- fail "\nautoscaling.minReplicas: more than maxReplicas" -}}
{{- end -}}
{{- if and .Values.podMonitor.enabled (not .Values.metrics.enabled) -}}
{{- fail "\npodMonitor.enabled: there is no page to read: set metrics.enabled" -}}
{{- end -}}
{{- if and .Values.grpcRoute.enabled (not .Values.grpcRoute.parentRefs) -}}
{{- fail "\ngrpcRoute.parentRefs: name the Gateway" -}}
{{- end -}}
{{- if .Values.httpRoute.enabled -}}
{{- if not .Values.httpRoute.parentRefs -}}
{{- fail "\nhttpRoute.parentRefs: name the Gateway" -}}
{{- end -}}
{{- if not .Values.http.enabled -}}
{{- fail "\nhttpRoute.enabled: there is no HTTP port to lead to: set http.enabled" -}}
{{- end -}}
{{- end -}}
{{- if not (kindIs "invalid" .Values.terminationGracePeriodSeconds) -}}
{{- $delay := dig "server" "drain_delay_s" 5.0 $config | float64 -}}
{{- $needed := addf (float64 .Values.preStopSeconds) $delay (include "moegate.drainSeconds" . | float64) -}}
{{- if lt (float64 .Values.terminationGracePeriodSeconds) $needed -}}
{{- fail (printf "\nterminationGracePeriodSeconds: %d would cut streams that the drain allows: at least %v, or lower config.server.drain_s" (int .Values.terminationGracePeriodSeconds) $needed) -}}
{{- end -}}
{{- end -}}
{{- include "moegate.vllm.refusals" . -}}
{{- end -}}
