{{- define "fullname" -}}
{{- $name := printf "%s-%s" .Release.Name .Chart.Name }}
{{- if contains .Chart.Name .Release.Name }}
{{- $name = .Release.Name }}
{{- end }}
{{- .Values.fullnameOverride | default $name | trunc 55 | trimSuffix "-" }}
{{- end -}}

{{- define "serviceAccount" -}}
{{- .Values.serviceAccountOverride | default (include "fullname" .) }}
{{- end -}}

{{- define "labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "podLabels" -}}
{{- mergeOverwrite (deepCopy .Values.modelArtifacts.labels) (dict "llm-d.ai/role" "decode") | toYaml }}
{{- end -}}
