{{- define "moegate.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "moegate.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "moegate.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "moegate.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "moegate.selector" -}}
app.kubernetes.io/name: {{ include "moegate.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: gateway
{{- end -}}

{{/* Labels of every object but pods. */}}
{{- define "moegate.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") }}
app.kubernetes.io/name: {{ include "moegate.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "moegate.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "moegate.serviceAccountName" -}}
{{- $own := ternary (include "moegate.fullname" .) "default" .Values.serviceAccount.create -}}
{{- default $own .Values.serviceAccount.name -}}
{{- end -}}

{{- define "moegate.tlsSecret" -}}
{{- if .Values.tls.existingSecret -}}
{{ .Values.tls.existingSecret }}
{{- else if .Values.tls.certManager.enabled -}}
{{ include "moegate.fullname" . }}-tls
{{- end -}}
{{- end -}}

{{/* Restricted pod security, of the pod and of its containers. */}}
{{- define "moegate.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "moegate.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Flags of `moegate chat` for the gateway's TLS, as a JSON list. With mTLS it shows the gateway's own
certificate, which must allow that: cert-manager's does. */}}
{{- define "moegate.chatTls" -}}
{{- $dir := "/etc/moegate/tls" -}}
{{- $flags := list -}}
{{- if include "moegate.tlsSecret" . -}}
{{- $flags = list "--tls" (printf "--ca=%s/ca.crt" $dir) -}}
{{- if .Values.tls.clientCa -}}
{{- $flags = concat $flags (list (printf "--cert=%s/tls.crt" $dir) (printf "--cert-key=%s/tls.key" $dir)) -}}
{{- end -}}
{{- end -}}
{{- $flags | toJson -}}
{{- end -}}

{{/* The Secret with the certificates between the gateways of a cluster; empty: there is no cluster. */}}
{{- define "moegate.clusterTlsSecret" -}}
{{- if .Values.cluster.enabled -}}
{{- default (printf "%s-cluster" (include "moegate.fullname" .)) .Values.cluster.tls.existingSecret -}}
{{- end -}}
{{- end -}}

{{/* DNS name of the certificates between the gateways of a cluster. */}}
{{- define "moegate.clusterMember" -}}
{{- printf "%s-cluster.%s" (include "moegate.fullname" .) .Release.Namespace -}}
{{- end -}}
