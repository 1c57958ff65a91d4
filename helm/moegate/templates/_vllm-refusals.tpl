{{/* Items of `vllm` that contradict themselves or each other. */}}
{{- define "moegate.vllm.refusals" -}}
{{- if not (kindIs "slice" .Values.vllm) -}}
{{- fail "\nvllm: it is a list, each item a pool: write `vllm: [{name: vllm, model: ...}]`; what is equal in all goes to vllmDefaults" -}}
{{- end -}}
{{- $names := list -}}
{{- range .Values.config.pools -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- range $index, $item := .Values.vllm -}}
{{- $vllm := include "moegate.vllm" (list $ $item) | fromYaml -}}
{{- $at := printf "\nvllm[%d]" $index -}}
{{- if has $vllm.name $names -}}
{{- fail (printf "%s.name: another pool is called %s: choose another name" $at $vllm.name) -}}
{{- end -}}
{{- $names = append $names $vllm.name -}}
{{- if has $vllm.name (list "headless" "ledger" "tls" "dashboard" "test") -}}
{{- fail (printf "%s.name: %s is the end of the name of another object: choose another name" $at $vllm.name) -}}
{{- end -}}
{{- include "moegate.vllm.refuse" (dict "root" $ "vllm" $vllm "stage" "" "at" $at) -}}
{{- end -}}
{{- end -}}

{{- define "moegate.vllm.refuse" -}}
{{- $vllm := .vllm -}}
{{- if not $vllm.model -}}
{{- fail (printf "%s.model: name the model" .at) -}}
{{- end -}}
{{- if not $vllm.gpu.type -}}
{{- fail (printf "%s.gpu.type: name the GPU, such as H200-141GB: the gateway predicts with it" .at) -}}
{{- end -}}
{{- $ranks := int $vllm.dataParallelSize -}}
{{- $needed := mul $ranks (int $vllm.tensorParallelSize) (int $vllm.pipelineParallelSize) | int -}}
{{- if ne $needed (int $vllm.gpu.count) -}}
{{- fail (printf "%s.gpu.count: %d, but dataParallelSize times tensorParallelSize times pipelineParallelSize is %d" .at (int $vllm.gpu.count) $needed) -}}
{{- end -}}
{{- $nodes := int $vllm.nodes -}}
{{- if and (gt $nodes 1) (ne 0 (mod (int $vllm.gpu.count) $nodes | int)) -}}
{{- fail (printf "%s.nodes: %d nodes cannot have %d GPUs in equal parts" .at $nodes (int $vllm.gpu.count)) -}}
{{- end -}}
{{- if and (gt $nodes 1) (gt $ranks 1) (ne 0 (mod $ranks $nodes | int)) -}}
{{- fail (printf "%s.nodes: %d nodes cannot have %d data-parallel ranks in equal parts" .at $nodes $ranks) -}}
{{- end -}}
{{- if and $vllm.pinRanks (eq $ranks 1) -}}
{{- fail (printf "%s.pinRanks: dataParallelSize is 1: there is one rank, and nothing to choose from" .at) -}}
{{- end -}}
{{- if and $vllm.engineFeed.countExperts (not $vllm.engineFeed.enabled) -}}
{{- fail (printf "%s.engineFeed.countExperts: the feed tells of experts: set engineFeed.enabled" .at) -}}
{{- end -}}
{{- if and $vllm.engineFeed.enabled (not $vllm.apiKey) -}}
{{- fail (printf "%s.engineFeed.enabled: the feed is told only to who has the server's key: set apiKey" .at) -}}
{{- end -}}
{{- if and (gt $nodes 1) $vllm.kvEvents.enabled -}}
{{- fail (printf "%s.kvEvents.enabled: the ranks of other nodes publish at addresses that nobody knows: leave it off with several nodes" .at) -}}
{{- end -}}
{{- if $vllm.disaggregated.enabled -}}
{{- if gt $nodes 1 -}}
{{- fail (printf "%s.nodes: engines of a disaggregated pool have one node each: set it to 1" .at) -}}
{{- end -}}
{{- if not $vllm.disaggregated.proxy.image -}}
{{- fail (printf "%s.disaggregated.proxy.image: name the image of the proxy, such as one with vllm-router" .at) -}}
{{- end -}}
{{- range $field, $set := dict "engineFeed" $vllm.engineFeed.enabled "kvEvents" $vllm.kvEvents.enabled -}}
{{- if $set -}}
{{- fail (printf "%s.%s.enabled: not read of engines behind a proxy: leave it off" $.at $field) -}}
{{- end -}}
{{- end -}}
{{- if $vllm.pinRanks -}}
{{- fail (printf "%s.pinRanks: the proxy chooses, not the gateway: leave it off" .at) -}}
{{- end -}}
{{- if ne $vllm.autoscaling.mode "none" -}}
{{- fail (printf "%s.autoscaling.mode: prefill and decode are scaled in the proportion that you set: leave it none" .at) -}}
{{- end -}}
{{- end -}}
{{- $scaling := $vllm.autoscaling -}}
{{- if eq $scaling.mode "money" -}}
{{- if not $vllm.gpu.usdPerGpuHour -}}
{{- fail (printf "%s.autoscaling.mode: money needs the price of a server: give gpu.usdPerGpuHour" .at) -}}
{{- end -}}
{{- if and (include "moegate.isShared" .root) (not .root.Values.cluster.enabled) -}}
{{- fail (printf "%s.autoscaling.mode: money needs one scheduler, because each would see its part of the demand: set cluster.enabled, or replicaCount 1 and the gateway's autoscaling.mode none" .at) -}}
{{- end -}}
{{- end -}}
{{- if and (ne $scaling.mode "none") (gt (int $scaling.minReplicas) (int $scaling.maxReplicas)) -}}
{{- fail (printf "%s.autoscaling.minReplicas: more than maxReplicas" .at) -}}
{{- end -}}
{{- if eq $scaling.mode "keda" -}}
{{- if not (or $scaling.prometheusAddress .root.Values.autoscaling.prometheusAddress) -}}
{{- fail (printf "%s.autoscaling.prometheusAddress: keda asks Prometheus: give its address" .at) -}}
{{- end -}}
{{- if not .root.Values.metrics.enabled -}}
{{- fail (printf "%s.autoscaling.mode: it follows the metrics: set metrics.enabled" .at) -}}
{{- end -}}
{{- end -}}
{{- if $vllm.preload.enabled -}}
{{- if or (not $vllm.modelVolume.source) (not (hasPrefix (printf "%s/" $vllm.modelVolume.mountPath) $vllm.model)) -}}
{{- fail (printf "%s.preload.enabled: give modelVolume.source, and as model a path below %s" .at $vllm.modelVolume.mountPath) -}}
{{- end -}}
{{- if not $vllm.preload.model -}}
{{- fail (printf "%s.preload.model: name the model on the hub" .at) -}}
{{- end -}}
{{- end -}}
{{- if hasPrefix "/" $vllm.model -}}
{{- $mounts := list -}}
{{- if $vllm.modelVolume.source -}}
{{- $mounts = append $mounts $vllm.modelVolume.mountPath -}}
{{- end -}}
{{- range $vllm.extraVolumeMounts -}}
{{- $mounts = append $mounts .mountPath -}}
{{- end -}}
{{- $found := false -}}
{{- range $mounts -}}
{{- if hasPrefix . $vllm.model -}}
{{- $found = true -}}
{{- end -}}
{{- end -}}
{{- if not $found -}}
{{- fail (printf "%s.model: no volume is mounted at %s: give modelVolume or extraVolumeMounts" .at $vllm.model) -}}
{{- end -}}
{{- end -}}
{{- include "moegate.vllm.refuseResize" . -}}
{{- end -}}

{{/* Kubernetes refuses to change the claims of a StatefulSet, in the middle of an upgrade: say it before. Asks
the cluster; without one (helm template) it finds nothing. */}}
{{- define "moegate.vllm.refuseResize" -}}
{{- $vllm := .vllm -}}
{{- $root := .root -}}
{{- $at := .at -}}
{{- range $stage := ternary (list "prefill" "decode") (list "") $vllm.disaggregated.enabled -}}
{{- $name := include "moegate.vllm.fullname" (dict "root" $root "vllm" $vllm "stage" $stage) -}}
{{- $set := lookup "apps/v1" "StatefulSet" $root.Release.Namespace $name -}}
{{- if $set -}}
{{- $had := "" -}}
{{- range dig "spec" "volumeClaimTemplates" list $set -}}
{{- $had = .spec.resources.requests.storage -}}
{{- end -}}
{{- $wanted := ternary $vllm.cache.size "" $vllm.cache.enabled -}}
{{- if ne $had $wanted -}}
{{- fail (printf "%s.cache.size: the servers have %s, and Kubernetes changes no claim of a StatefulSet (wanted: %s). Keep it, or first remove the set without its pods: kubectl --namespace %s delete statefulset %s --cascade=orphan; volumes that exist grow by kubectl edit pvc where the storage class allows it" $at (default "none" $had | quote) (default "none" $wanted | quote) $root.Release.Namespace $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
