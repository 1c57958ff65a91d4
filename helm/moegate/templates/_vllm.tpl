{{/* One item of `vllm` over the defaults, as YAML. The argument: the root, and the item. */}}
{{- define "moegate.vllm" -}}
{{- $defaults := (index . 0).Values.vllmDefaults -}}
{{- toYaml (mergeOverwrite (deepCopy $defaults) (deepCopy (index . 1))) -}}
{{- end -}}

{{/* The templates below take a map: `root`, `vllm` (an item over the defaults), and `stage`: prefill or
decode where these are apart. */}}

{{- define "moegate.vllm.fullname" -}}
{{ include "moegate.fullname" .root }}-{{ .vllm.name }}{{ with .stage }}-{{ . }}{{ end }}
{{- end -}}

{{- define "moegate.vllm.labels" -}}
{{ include "moegate.labels" .root }}
app.kubernetes.io/component: vllm
moegate-pool: {{ .vllm.name }}
{{- end -}}

{{/* All servers of the pool, and their proxy. */}}
{{- define "moegate.vllm.poolSelector" -}}
app.kubernetes.io/name: {{ include "moegate.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: vllm
moegate-pool: {{ .vllm.name }}
{{- end -}}

{{/* Those of one stage. */}}
{{- define "moegate.vllm.selector" -}}
{{ include "moegate.vllm.poolSelector" . }}
{{- with .stage }}
moegate-stage: {{ . }}
{{- end }}
{{- end -}}

{{/* Without the cluster's domain: the resolver's search list has it. */}}
{{- define "moegate.vllm.dns" -}}
{{ include "moegate.vllm.fullname" . }}.{{ .root.Release.Namespace }}.svc
{{- end -}}

{{- define "moegate.vllm.image" -}}
{{- with .vllm.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "moegate.vllm.replicas" -}}
{{- if .stage -}}
{{- index .vllm.disaggregated .stage | int -}}
{{- else -}}
{{- int .vllm.replicas -}}
{{- end -}}
{{- end -}}

{{/* Where the first rank of a server replays its KV events: after the ranks' own ports. */}}
{{- define "moegate.vllm.replayPort" -}}
{{- add (int .vllm.kvEvents.port) (int .vllm.dataParallelSize) -}}
{{- end -}}

{{- define "moegate.vllm.lastKvPort" -}}
{{- sub (add (include "moegate.vllm.replayPort" . | int) (int .vllm.dataParallelSize)) 1 -}}
{{- end -}}

{{/* The pool in the gateway's configuration. */}}
{{- define "moegate.vllm.pool" -}}
{{- $vllm := .vllm -}}
{{- $pool := dict "name" $vllm.name "model" (default $vllm.model $vllm.servedModelName) -}}
{{- $count := int $vllm.gpu.count -}}
{{- if $vllm.disaggregated.enabled -}}
{{- $apart := $vllm.disaggregated -}}
{{- $count = mul $count (add (int $apart.prefill) (int $apart.decode)) | int -}}
{{- $share := dict "prefill" (int $apart.prefill) "decode" (int $apart.decode) -}}
{{- $_ := set $pool "disaggregated" $share -}}
{{- $engines := dict -}}
{{- range $stage := list "prefill" "decode" -}}
{{- $urls := include "moegate.vllm.engineUrls" (dict "root" $.root "vllm" $vllm "stage" $stage) | fromJsonArray -}}
{{- $_ := set $engines $stage $urls -}}
{{- end -}}
{{- $url := printf "http://%s-proxy.%s.svc:8000" (include "moegate.vllm.fullname" .) .root.Release.Namespace -}}
{{- $_ := set $pool "replicas" (list (dict "name" "pair" "url" $url "engines" $engines)) -}}
{{- else -}}
{{- $discover := dict "port" 8000 -}}
{{- if eq $vllm.discovery "endpointSlices" -}}
{{- $service := dict "service" (include "moegate.vllm.fullname" .) "namespace" .root.Release.Namespace -}}
{{- $_ := set $discover "endpoint_slices" $service -}}
{{- else -}}
{{- $_ := set $discover "dns" (include "moegate.vllm.dns" .) -}}
{{- end -}}
{{- $most := max 16 (mul 2 (max (int $vllm.replicas) (ternary 0 (int $vllm.autoscaling.maxReplicas) (eq $vllm.autoscaling.mode "none")))) -}}
{{- if and (ne $vllm.autoscaling.mode "none") (eq (int $vllm.autoscaling.minReplicas) 0) -}}
{{- $_ := set $discover "start_s" (int $vllm.startupSeconds) -}}
{{- end -}}
{{- $_ := set $pool "discover" (mergeOverwrite $discover (dict "max_replicas" $most)) -}}
{{- end -}}
{{- $gpu := dict "type" $vllm.gpu.type "count" $count -}}
{{- if $vllm.gpu.usdPerGpuHour -}}
{{- $_ := set $gpu "usd_per_gpu_hour" $vllm.gpu.usdPerGpuHour -}}
{{- end -}}
{{- $_ := set $pool "gpu" $gpu -}}
{{- $_ := set $pool "data_parallel_ranks" (int $vllm.dataParallelSize) -}}
{{- $_ := set $pool "pin_ranks" $vllm.pinRanks -}}
{{- $_ := set $pool "max_num_seqs" (int $vllm.maxNumSeqs) -}}
{{- if $vllm.maxModelLen -}}
{{- $_ := set $pool "context_tokens" (int $vllm.maxModelLen) -}}
{{- end -}}
{{- if $vllm.kvEvents.enabled -}}
{{- $replay := include "moegate.vllm.replayPort" . | int -}}
{{- $_ := set $pool "kv_events" (dict "port" (int $vllm.kvEvents.port) "replay_port" $replay "topic" "kv-events") -}}
{{- end -}}
{{- if not $vllm.engineFeed.enabled -}}
{{- $_ := set $pool "engine_feed" false -}}
{{- end -}}
{{- if $vllm.apiKey -}}
{{- $_ := set $pool "api_key" (dict "file" (printf "../secrets/%s/api-key" $vllm.name)) -}}
{{- end -}}
{{- toYaml (mergeOverwrite $pool (deepCopy $vllm.pool)) -}}
{{- end -}}

{{/* Addresses of a stage's engines, as a JSON list. */}}
{{- define "moegate.vllm.engineUrls" -}}
{{- $urls := list -}}
{{- $name := include "moegate.vllm.fullname" . -}}
{{- range $index := until (include "moegate.vllm.replicas" . | int) -}}
{{- $urls = append $urls (printf "http://%s-%d.%s:8000" $name $index (include "moegate.vllm.dns" $)) -}}
{{- end -}}
{{- $urls | toJson -}}
{{- end -}}
