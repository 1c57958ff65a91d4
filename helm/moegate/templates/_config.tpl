{{/* The gateway's configuration: that of the values, and what follows from the other values. */}}
{{- define "moegate.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $server := dig "server" dict $config -}}
{{- $_ := set $server "listen" "[::]:50051" -}}
{{- $_ := set $server "health_listen" "[::]:50052" -}}
{{- if .Values.http.enabled -}}
{{- $_ := set $server "http_listen" "[::]:8080" -}}
{{- end -}}
{{- if .Values.console.enabled -}}
{{- $_ := set $server "console_listen" "[::]:8090" -}}
{{- $console := dig "console" dict $config -}}
{{- if .Values.console.existingSecret -}}
{{- $_ := set $console "session_secret" (dict "file" "../console/session-secret") -}}
{{- end -}}
{{- with .Values.console.publicUrl -}}
{{- $_ := set $console "public_url" . -}}
{{- end -}}
{{- with .Values.console.oidc -}}
{{- $_ := set $console "oidc" . -}}
{{- end -}}
{{- $_ := set $config "console" $console -}}
{{- end -}}
{{- if include "moegate.scalesByMoney" . -}}
{{- $_ := set $server "scaler_listen" "[::]:50053" -}}
{{- end -}}
{{- $server = mergeOverwrite (dict "watch_files_s" 10) $server -}}
{{- $_ := set $server "drain_s" (include "moegate.drainSeconds" . | float64) -}}
{{- if include "moegate.tlsSecret" . -}}
{{- $tls := dict "cert" "../tls/tls.crt" "key" "../tls/tls.key" -}}
{{- if .Values.tls.clientCa -}}
{{- $_ := set $tls "client_ca" "../tls/ca.crt" -}}
{{- end -}}
{{- $_ := set $server "tls" $tls -}}
{{- end -}}
{{- $_ := set $config "server" $server -}}
{{- if .Values.metrics.enabled -}}
{{- $telemetry := dig "telemetry" dict $config -}}
{{- $_ := set $telemetry "metrics_listen" (printf "[::]:%d" (int .Values.metrics.port)) -}}
{{- $_ := set $config "telemetry" $telemetry -}}
{{- end -}}
{{- if .Values.cluster.enabled -}}
{{- $files := dict "cert" "../cluster-tls/tls.crt" "key" "../cluster-tls/tls.key" "ca" "../cluster-tls/ca.crt" "member" (include "moegate.clusterMember" .) -}}
{{- $_ := set $config "cluster" (dict "name" (include "moegate.fullname" .) "listen" "[::]:50061" "lease_s" (float64 .Values.cluster.leaseSeconds) "tls" $files) -}}
{{- else -}}
{{- $metering := dig "metering" dict $config -}}
{{- $_ := set $config "metering" (mergeOverwrite (dict "state" "/var/lib/moegate/meter.json") $metering) -}}
{{- end -}}
{{- if .Values.priceCatalog -}}
{{- $_ := set $config "prices" (mergeOverwrite (dig "prices" dict $config) (dict "catalog" "prices.yaml")) -}}
{{- end -}}
{{- if eq (include "moegate.ledgerKind" .) "sqlite" -}}
{{- $ledger := dict "sqlite" "/var/lib/moegate/ledger.sqlite3" -}}
{{- if .Values.ledger.persistence.enabled -}}
{{/* The name of a pod is new at every start; the ledger's is not. */}}
{{- $_ := set $ledger "gateway" (include "moegate.fullname" .) -}}
{{- end -}}
{{- $_ := set $config "ledger" (mergeOverwrite (dig "ledger" dict $config) $ledger) -}}
{{- else if not .Values.cluster.enabled -}}
{{/* It outlives the container, not the pod: a gateway that is killed finds its rows again. */}}
{{- $spool := dict "spool" "/var/lib/moegate/ledger.spool" -}}
{{- $_ := set $config "ledger" (mergeOverwrite $spool (dig "ledger" dict $config)) -}}
{{- end -}}
{{- range .Values.vllm -}}
{{- $server := include "moegate.vllm" (list $ .) | fromYaml -}}
{{- $pool := include "moegate.vllm.pool" (dict "root" $ "vllm" $server) | fromYaml -}}
{{- $_ := set $config "pools" (append (dig "pools" list $config) $pool) -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/* The longest that a stream may run, seconds: the largest total_s; 3600 is the gateway's own. */}}
{{- define "moegate.longestStreamSeconds" -}}
{{- $longest := 0.0 -}}
{{- $upstreams := concat (dig "pools" list .Values.config) (dig "remotes" list .Values.config) -}}
{{- range .Values.vllm -}}
{{- $upstreams = append $upstreams (dig "pool" dict .) -}}
{{- end -}}
{{- range $upstreams -}}
{{- $total := dig "timeouts" "total_s" 3600.0 . | float64 -}}
{{- if gt $total $longest -}}
{{- $longest = $total -}}
{{- end -}}
{{- end -}}
{{- $longest -}}
{{- end -}}

{{- define "moegate.drainSeconds" -}}
{{- dig "server" "drain_s" (include "moegate.longestStreamSeconds" . | float64) .Values.config -}}
{{- end -}}

{{/* preStop, the delay before the drain, the drain, and half a minute to flush. */}}
{{- define "moegate.gracePeriodSeconds" -}}
{{- if kindIs "invalid" .Values.terminationGracePeriodSeconds -}}
{{- $delay := dig "server" "drain_delay_s" 5.0 .Values.config | float64 -}}
{{- addf (float64 .Values.preStopSeconds) $delay (include "moegate.drainSeconds" . | float64) 30.0 | ceil | int -}}
{{- else -}}
{{- int .Values.terminationGracePeriodSeconds -}}
{{- end -}}
{{- end -}}

{{/* sqlite or postgres: where the ledger is. */}}
{{- define "moegate.ledgerKind" -}}
{{- if dig "ledger" "postgres" "" .Values.config -}}postgres{{- else -}}sqlite{{- end -}}
{{- end -}}

{{/* Whether there may be more than one gateway at once, now or by an autoscaler. */}}
{{- define "moegate.isShared" -}}
{{- if or (gt (int .Values.replicaCount) 1) (ne .Values.autoscaling.mode "none") -}}true{{- end -}}
{{- end -}}

{{/* Whether KEDA asks the gateway how many servers there should be. */}}
{{- define "moegate.scalesByMoney" -}}
{{- range .Values.vllm -}}
{{- if eq (dig "autoscaling" "mode" $.Values.vllmDefaults.autoscaling.mode .) "money" -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{/* What a running gateway cannot change: a pod with another one is made anew. */}}
{{- define "moegate.fixedConfig" -}}
{{- $config := include "moegate.config" . | fromYaml -}}
{{- $server := omit $config.server "tls" "drain_delay_s" "drain_s" "blocked_write_s" "probe_interval_s" "cors_origins" "ping_s" "watch_files_s" -}}
{{- dict "server" $server "tls" (hasKey $config.server "tls") "ledger" (dig "ledger" dict $config) "telemetry" (dig "telemetry" dict $config) "metering" (dig "metering" "state" "" $config) "cluster" (dig "cluster" dict $config) | toYaml -}}
{{- end -}}
