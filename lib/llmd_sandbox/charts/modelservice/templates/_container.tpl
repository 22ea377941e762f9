{{- /* Arguments that the chart puts before the container's own; needs .container and .root. */ -}}
{{- define "modelArguments" -}}
{{- $artifacts := .root.Values.modelArtifacts }}
{{- if eq .container.modelCommand "imageDefault" }}
- --model
{{- end }}
- {{ tpl $artifacts.uri .root | trimPrefix "hf://" }}
- --port
- {{ .root.Values.routing.servicePort | quote }}
- --served-model-name
- {{ $artifacts.name }}
{{- end -}}

{{- /* One container of the pod; needs .container and .root. */ -}}
{{- define "container" -}}
{{- $artifacts := .root.Values.modelArtifacts }}
{{- $command := .container.modelCommand | default "custom" }}
{{- $gpu := dict "nvidia.com/gpu" "1" }}
{{- if contains "llm-d-inference-sim" .container.image }}
{{- $gpu = dict }}
{{- end }}
{{- $resources := .container.resources | default dict }}
name: {{ .container.name | default "vllm" }}
image: {{ .container.image }}
{{- if eq $command "vllmServe" }}
command: [vllm, serve]
{{- else if eq $command "custom" }}
command: {{- required "a container with modelCommand custom needs a command" .container.command | toYaml | nindent 2 }}
{{- end }}
args:
  {{- if ne $command "custom" }}
  {{- include "modelArguments" . | trim | nindent 2 }}
  {{- end }}
  {{- with .container.args }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
env:
  {{- with .container.env }}
  {{- tpl (toYaml .) $.root | nindent 2 }}
  {{- end }}
  - {name: DP_SIZE, value: "1"}
  - {name: TP_SIZE, value: "1"}
  - {name: DP_SIZE_LOCAL, value: "1"}
  {{- if .container.mountModelVolume }}
  - {name: HF_HOME, value: {{ $artifacts.mountPath }}}
  {{- end }}
  {{- with $artifacts.authSecretName }}
  - name: HF_TOKEN
    valueFrom: {secretKeyRef: {name: {{ . }}, key: HF_TOKEN}}
  {{- end }}
resources:
  limits: {{- merge (deepCopy ($resources.limits | default dict)) $gpu | toYaml | nindent 4 }}
  requests: {{- merge (deepCopy ($resources.requests | default dict)) $gpu | toYaml | nindent 4 }}
{{- range $key := list "imagePullPolicy" "ports" "startupProbe" "livenessProbe" "readinessProbe" "securityContext" }}
{{- with index $.container $key }}
{{ dict $key . | toYaml }}
{{- end }}
{{- end }}
{{- if or .container.volumeMounts .container.mountModelVolume }}
volumeMounts:
  {{- with .container.volumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- if .container.mountModelVolume }}
  - {name: model-storage, mountPath: {{ $artifacts.mountPath }}}
  {{- end }}
{{- end }}
{{- end -}}
