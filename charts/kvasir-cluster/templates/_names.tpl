{{- define "kvasir-cluster.name" -}}
{{- $name := .Values.name | default .Release.Name -}}
{{- if gt (len $name) 40 -}}
{{- fail (printf "the KVCluster would be called %q: at most 40 characters. try: --set name=..." $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{- define "kvasir-cluster.labels" -}}
app.kubernetes.io/name: kvasir-cluster
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* The series of this cluster's pods. */}}
{{- define "kvasir-cluster.series" -}}
namespace={{ .Release.Namespace | quote }},kvasir_dev_cluster={{ include "kvasir-cluster.name" . | quote }}
{{- end -}}
