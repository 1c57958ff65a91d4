{{/* The port of an address: `url`, and `default` where it names none. */}}
{{- define "moegate.portOf" -}}
{{- $port := regexFind ":[0-9]+$" (urlParse .url).host | trimPrefix ":" -}}
{{- default .default $port -}}
{{- end -}}

{{- define "moegate.urlPort" -}}
{{- include "moegate.portOf" (dict "url" . "default" (ternary "443" "80" (hasPrefix "https:" .))) -}}
{{- end -}}

{{/* Ports of the pools' servers, as a JSON list. */}}
{{- define "moegate.poolPorts" -}}
{{- $ports := list -}}
{{- range .Values.config.pools -}}
{{- $ranks := int (default 1 .data_parallel_ranks) -}}
{{- range $first := include "moegate.kvPorts" . | fromJsonArray -}}
{{- range $rank := until $ranks -}}
{{- $ports = append $ports (add (int $first) $rank | int) -}}
{{- end -}}
{{- end -}}
{{- with .grpc_port -}}
{{- $ports = append $ports (int .) -}}
{{- end -}}
{{- range .replicas -}}
{{- $ports = append $ports (include "moegate.urlPort" .url | int) -}}
{{- with .grpc_port -}}
{{- $ports = append $ports (int .) -}}
{{- end -}}
{{- end -}}
{{- with .discover -}}
{{- $ports = append $ports (int .port) -}}
{{- end -}}
{{- end -}}
{{- $ports | uniq | toJson -}}
{{- end -}}

{{/* Ports of first ranks where a pool's servers publish and replay KV events, as a JSON list. */}}
{{- define "moegate.kvPorts" -}}
{{- $ports := list -}}
{{- with .kv_events -}}
{{- $port := int (default 5557 .port) -}}
{{- $offsets := list 0 -}}
{{- if .replay_port -}}
{{- $offsets = append $offsets (sub (int .replay_port) $port) -}}
{{- end -}}
{{- $firsts := list $port -}}
{{- range $.replicas -}}
{{- if .kv_events_port -}}
{{- $firsts = append $firsts (int .kv_events_port) -}}
{{- end -}}
{{- end -}}
{{- range $first := $firsts -}}
{{- range $offsets -}}
{{- $ports = append $ports (add $first (int .) | int) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $ports | uniq | toJson -}}
{{- end -}}

{{/* Ports of the remotes, as a JSON list. */}}
{{- define "moegate.remotePorts" -}}
{{- $ports := list -}}
{{- range .Values.config.remotes -}}
{{- $ports = append $ports (include "moegate.urlPort" .url | int) -}}
{{- end -}}
{{- $ports | uniq | toJson -}}
{{- end -}}

{{/* Namespaces of Services whose EndpointSlices the gateway follows, as a JSON list. */}}
{{- define "moegate.sliceNamespaces" -}}
{{- $namespaces := list -}}
{{- range .Values.vllm -}}
{{- if eq (include "moegate.vllm" (list $ .) | fromYaml).discovery "endpointSlices" -}}
{{- $namespaces = append $namespaces $.Release.Namespace -}}
{{- end -}}
{{- end -}}
{{- range .Values.config.pools -}}
{{- with (default dict .discover).endpoint_slices -}}
{{- if not .api_server -}}
{{- $namespaces = append $namespaces (default $.Release.Namespace .namespace) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $namespaces | uniq | toJson -}}
{{- end -}}
