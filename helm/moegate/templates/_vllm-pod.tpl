{{/* Arguments of `vllm serve`, as a JSON list. `worker`: those of a node that serves no HTTP. */}}
{{- define "moegate.vllm.args" -}}
{{- $vllm := .vllm -}}
{{- $args := list $vllm.model (printf "--served-model-name=%s" (default $vllm.model $vllm.servedModelName)) -}}
{{- if .worker -}}
{{- $args = append $args "--headless" -}}
{{- else -}}
{{- $args = concat $args (list (printf "--host=%s" $vllm.host) "--port=8000") -}}
{{- end -}}
{{- $args = append $args (printf "--tensor-parallel-size=%d" (int $vllm.tensorParallelSize)) -}}
{{- if gt (int $vllm.pipelineParallelSize) 1 -}}
{{- $args = append $args (printf "--pipeline-parallel-size=%d" (int $vllm.pipelineParallelSize)) -}}
{{- end -}}
{{- $args = append $args (printf "--data-parallel-size=%d" (int $vllm.dataParallelSize)) -}}
{{- if gt (int $vllm.nodes) 1 -}}
{{- $args = concat $args (include "moegate.vllm.nodeArgs" . | fromJsonArray) -}}
{{- end -}}
{{- if $vllm.enableExpertParallel -}}
{{- $args = append $args "--enable-expert-parallel" -}}
{{- end -}}
{{- $args = append $args (printf "--max-num-seqs=%d" (int $vllm.maxNumSeqs)) -}}
{{- if $vllm.maxModelLen -}}
{{- $args = append $args (printf "--max-model-len=%d" (int $vllm.maxModelLen)) -}}
{{- end -}}
{{- $args = append $args "--enable-prompt-tokens-details" -}}
{{- if not (has "--disable-log-stats" $vllm.extraArgs) -}}
{{/* How long vLLM worked on a request, for its cost. */}}
{{- $args = append $args "--enable-per-request-metrics" -}}
{{- end -}}
{{/* Without it open streams fall silent on SIGTERM, neither ended nor closed. */}}
{{- $args = append $args (printf "--shutdown-timeout=%d" (int $vllm.shutdownTimeoutSeconds)) -}}
{{- if $vllm.kvEvents.enabled -}}
{{- $events := dict "enable_kv_cache_events" true "publisher" "zmq" "topic" "kv-events" -}}
{{- $_ := set $events "endpoint" (printf "tcp://*:%d" (int $vllm.kvEvents.port)) -}}
{{- $_ := set $events "replay_endpoint" (printf "tcp://*:%s" (include "moegate.vllm.replayPort" .)) -}}
{{- $args = append $args (printf "--kv-events-config=%s" ($events | toJson)) -}}
{{- end -}}
{{- if $vllm.engineFeed.enabled -}}
{{- $args = concat $args (list "--enable-logging-iteration-details" "--middleware=moegate.vllm_plugin.route.StepsRoute") -}}
{{- end -}}
{{- if .stage -}}
{{- $args = append $args (printf "--kv-transfer-config=%s" $vllm.disaggregated.kvTransferConfig) -}}
{{- end -}}
{{- concat $args $vllm.extraArgs | toJson -}}
{{- end -}}

{{/* How the nodes of a server find each other. LeaderWorkerSet's controller sets LWS_*. */}}
{{- define "moegate.vllm.nodeArgs" -}}
{{- $nodes := int .vllm.nodes -}}
{{- $ranks := int .vllm.dataParallelSize -}}
{{- $args := list -}}
{{- if eq $ranks 1 -}}
{{- $args = list (printf "--nnodes=%d" $nodes) "--node-rank=$(LWS_WORKER_INDEX)" "--master-addr=$(LWS_LEADER_ADDRESS)" -}}
{{- else -}}
{{- $args = list (printf "--data-parallel-size-local=%d" (div $ranks $nodes)) "--data-parallel-address=$(LWS_LEADER_ADDRESS)" "--data-parallel-rpc-port=13345" -}}
{{- end -}}
{{- $args | toJson -}}
{{- end -}}

{{/* A probe with the fields of `probes` over it. The argument: the pod's map, the probe's name, the probe. */}}
{{- define "moegate.probe" -}}
{{- $over := dig (index . 1) dict (index . 0) -}}
{{- toYaml (mergeOverwrite (index . 2) (deepCopy $over)) -}}
{{- end -}}

{{/* The pod of a server, or of one of its nodes. */}}
{{- define "moegate.vllm.podSpec" -}}
{{- $vllm := .vllm -}}
{{- $root := .root -}}
serviceAccountName: {{ include "moegate.serviceAccountName" $root }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $vllm.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $vllm.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
securityContext:
  {{- include "moegate.podSecurity" $root | nindent 2 }}
# preStop, the streams, and a minute to free the GPUs.
terminationGracePeriodSeconds: {{ add (int $vllm.preStopSeconds) (int $vllm.shutdownTimeoutSeconds) 60 }}
topologySpreadConstraints:
  {{- if $vllm.topologySpreadConstraints }}
  {{- toYaml $vllm.topologySpreadConstraints | nindent 2 }}
  {{- else }}
  - topologyKey: kubernetes.io/hostname
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "moegate.vllm.selector" . | nindent 8 }}
  {{- end }}
{{- with $vllm.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $vllm.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $vllm.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $vllm.resourceClaims }}
resourceClaims:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if or $vllm.engineFeed.enabled $vllm.initContainers }}
initContainers:
  {{- if $vllm.engineFeed.enabled }}
  - name: engine-feed
    image: {{ include "moegate.image" $root | quote }}
    imagePullPolicy: {{ $root.Values.image.pullPolicy }}
    command: [python, -m, moegate.up.engine_plugin, /plugin/path]
    securityContext:
      {{- include "moegate.containerSecurity" $root | nindent 6 }}
    resources:
      requests:
        cpu: 100m
        memory: 128Mi
      limits:
        memory: 256Mi
    volumeMounts:
      - name: plugin
        mountPath: /plugin
  {{- end }}
  {{- with $vllm.initContainers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
containers:
  - name: vllm
    image: {{ include "moegate.vllm.image" . | quote }}
    imagePullPolicy: {{ $vllm.image.pullPolicy }}
    {{- if and .worker (gt (int $vllm.dataParallelSize) 1) }}
    # The shell reckons the node's first rank, and leaves vLLM in its place: SIGTERM must reach it.
    command: [sh, -c, 'exec vllm serve "$@" --data-parallel-start-rank=$(expr $LWS_WORKER_INDEX \* {{ div (int $vllm.dataParallelSize) (int $vllm.nodes) }})', vllm]
    {{- else }}
    # Without a shell: SIGTERM must reach vLLM itself.
    command: [vllm, serve]
    {{- end }}
    args:
      {{- range include "moegate.vllm.args" . | fromJsonArray }}
      - {{ . | quote }}
      {{- end }}
    securityContext:
      {{- include "moegate.containerSecurity" $root | nindent 6 }}
    {{- if not .worker }}
    ports:
      - name: http
        containerPort: 8000
      {{- if $vllm.kvEvents.enabled }}
      {{- range $rank := until (int $vllm.dataParallelSize) }}
      - name: kv-events-{{ $rank }}
        containerPort: {{ add (int $vllm.kvEvents.port) $rank }}
      - name: kv-replay-{{ $rank }}
        containerPort: {{ add (include "moegate.vllm.replayPort" $ | int) $rank }}
      {{- end }}
      {{- end }}
    {{- end }}
    env:
      {{- include "moegate.vllm.env" . | nindent 6 }}
    {{- if not .worker }}
    # /health answers once the engine is up, and is 503 only when the engine is dead. It says
    # nothing of an engine that is up and cannot serve: the gateway sends a real request first.
    {{- $health := dict "httpGet" (dict "path" "/health" "port" "http") }}
    {{- $failures := div (add (int $vllm.startupSeconds) 9) 10 }}
    startupProbe:
      {{- include "moegate.probe" (list $vllm.probes "startup" (merge (dict "periodSeconds" 10 "timeoutSeconds" 5 "failureThreshold" $failures) $health)) | nindent 6 }}
    readinessProbe:
      {{- include "moegate.probe" (list $vllm.probes "readiness" (merge (dict "periodSeconds" 5 "timeoutSeconds" 5 "failureThreshold" 3) $health)) | nindent 6 }}
    # A busy server answers late: only long silence is death.
    livenessProbe:
      {{- include "moegate.probe" (list $vllm.probes "liveness" (merge (dict "periodSeconds" 10 "timeoutSeconds" 10 "failureThreshold" 6) $health)) | nindent 6 }}
    {{- end }}
    lifecycle:
      preStop:
        exec:
          command: [sleep, {{ $vllm.preStopSeconds | quote }}]
    {{- $resources := deepCopy $vllm.resources }}
    {{- if $vllm.gpu.resource }}
    {{- $limits := dict $vllm.gpu.resource (div (int $vllm.gpu.count) (int $vllm.nodes)) }}
    {{- $resources = mergeOverwrite $resources (dict "limits" $limits) }}
    {{- end }}
    {{- with $vllm.resourceClaims }}
    {{- $claims := list }}
    {{- range . }}
    {{- $claims = append $claims (dict "name" .name) }}
    {{- end }}
    {{- $resources = mergeOverwrite $resources (dict "claims" $claims) }}
    {{- end }}
    resources:
      {{- toYaml $resources | nindent 6 }}
    volumeMounts:
      - name: cache
        mountPath: /cache
      - name: shared-memory
        mountPath: /dev/shm
      - name: tmp
        mountPath: /tmp
      {{- if $vllm.modelVolume.source }}
      - name: models
        mountPath: {{ $vllm.modelVolume.mountPath }}
        readOnly: {{ $vllm.modelVolume.readOnly }}
      {{- end }}
      {{- if $vllm.engineFeed.enabled }}
      - name: plugin
        mountPath: /plugin
        readOnly: true
      {{- end }}
      {{- with $vllm.extraVolumeMounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
  {{- with $vllm.sidecars }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
volumes:
  {{- if or (not $vllm.cache.enabled) (gt (int $vllm.nodes) 1) }}
  - name: cache
    emptyDir: {}
  {{- end }}
  - name: shared-memory
    emptyDir:
      medium: Memory
      sizeLimit: {{ $vllm.sharedMemory }}
  - name: tmp
    emptyDir: {}
  {{- with $vllm.modelVolume.source }}
  - {{ merge (dict "name" "models") . | toYaml | nindent 4 | trim }}
  {{- end }}
  {{- if $vllm.engineFeed.enabled }}
  - name: plugin
    emptyDir: {}
  {{- end }}
  {{- with $vllm.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "moegate.vllm.env" -}}
{{- $vllm := .vllm -}}
# Everything that is written: weights, kernels, settings.
- name: HOME
  value: /cache
- name: HF_HOME
  value: /cache/huggingface
- name: VLLM_CACHE_ROOT
  value: /cache/vllm
- name: TRITON_CACHE_DIR
  value: /cache/triton
- name: TORCHINDUCTOR_CACHE_DIR
  value: /cache/inductor
- name: VLLM_NO_USAGE_STATS
  value: "1"
{{- if .stage }}
# Where the other stage finds this engine's KV cache.
- name: VLLM_NIXL_SIDE_CHANNEL_HOST
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
{{- end }}
{{- if $vllm.engineFeed.enabled }}
- name: PYTHONPATH
  value: /plugin/path
{{- end }}
{{- if $vllm.engineFeed.countExperts }}
- name: MOEGATE_EXPERTS
  value: "1"
{{- end }}
{{- with $vllm.apiKey }}
- name: VLLM_API_KEY
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: {{ .key }}
{{- end }}
{{- with $vllm.hfToken }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: {{ .key }}
{{- end }}
{{- with $vllm.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}
