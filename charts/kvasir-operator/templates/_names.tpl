{{/* Name of every object; the release's name where it says what it is already. */}}
{{- define "kvasir-operator.name" -}}
{{- if contains "kvasir-operator" .Release.Name -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-kvasir-operator" .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Cluster-wide objects carry the namespace too: two releases must not share one. */}}
{{- define "kvasir-operator.wideName" -}}
{{- printf "%s-%s" .Release.Namespace (include "kvasir-operator.name" .) -}}
{{- end -}}

{{- define "kvasir-operator.selector" -}}
app.kubernetes.io/name: kvasir-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "kvasir-operator.labels" -}}
{{ include "kvasir-operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "kvasir-operator.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "kvasir-operator.name" .) -}}
{{- else -}}
{{- required "serviceAccount.name is needed where serviceAccount.create is off" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}
