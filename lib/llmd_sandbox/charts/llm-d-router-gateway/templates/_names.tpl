{{- define "picker" -}}
{{- .Release.Name | lower | trunc 40 }}-epp
{{- end -}}

{{- define "labels" -}}
app.kubernetes.io/name: {{ include "picker" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion }}
{{- end -}}

{{- define "mode" -}}
llm-d.ai/igw-mode: llm-d-router-gateway
{{- end -}}

{{- define "poolReference" -}}
group: inference.networking.k8s.io
kind: InferencePool
name: {{ .Release.Name }}
{{- end -}}
