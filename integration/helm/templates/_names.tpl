{{/* What the names of all objects begin with. */}}
{{- define "drakkar.name" -}}
{{- .Values.name | default .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Name of a cluster's workers. Takes root and cluster. */}}
{{- define "drakkar.workerName" -}}
{{- printf "%s-worker-%s" (include "drakkar.name" .root) (.cluster | lower | replace "_" "-") -}}
{{- end -}}

{{/* Labels of an object, and Helm's own. Takes root and part; part may be empty. */}}
{{- define "drakkar.labels" -}}
app: {{ include "drakkar.name" .root }}
{{- with .part }}
part: {{ . }}
{{- end }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{/* Labels that tell the pods of a part from all others. Takes root, part and, of workers, cluster. */}}
{{- define "drakkar.selector" -}}
app: {{ include "drakkar.name" .root }}
part: {{ .part }}
{{- with .cluster }}
cluster: {{ . }}
{{- end }}
{{- end -}}
