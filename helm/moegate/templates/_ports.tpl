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
{{- range .replicas -}}
{{- $ports = append $ports (include "moegate.urlPort" .url | int) -}}
{{- end -}}
{{- with .discover -}}
{{- $ports = append $ports (int .port) -}}
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
