{{/* What pods of all parts have. Takes root, pod (where it may run) and, of workers, seccompProfile. */}}
{{- define "drakkar.pod" -}}
automountServiceAccountToken: false
# A Service named as the site's section would give each pod a variable DRAKKAR_SITE_PORT, which is refused.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  fsGroup: 10001
  seccompProfile:
    {{- toYaml (.seccompProfile | default (dict "type" "RuntimeDefault")) | nindent 4 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .pod }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The image and the rights of a container. Takes root and, of workers, image (whole, or empty) and procMount. */}}
{{- define "drakkar.container" -}}
{{- $image := .root.Values.image -}}
image: {{ .image | default (printf "%s:%s" $image.repository $image.tag) | quote }}
{{- with $image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
  {{- with .procMount }}
  procMount: {{ . }}
  {{- end }}
{{- end -}}

{{/* Variables and Secrets of a container. Takes root, env, secrets and, of workers, cluster; isWeb of the web's. */}}
{{- define "drakkar.environment" -}}
env:
  - {name: DRAKKAR_CONFIG, value: /etc/drakkar/drakkar.yaml}
  {{- if not .isWeb }}
  - {name: SECRET_KEY, value: {{ .root.Values.secretKeyStandIn | quote }}}
  {{- end }}
  {{- if .cluster }}
  - name: WORKER_ID
    valueFrom: {fieldRef: {fieldPath: metadata.name}}
  {{- end }}
  {{- range $name, $value := include "drakkar.variables" . | fromYaml }}
  - {name: {{ $name }}, value: {{ $value | quote }}}
  {{- end }}
envFrom:
  {{- range compact .secrets }}
  - secretRef: {name: {{ . }}}
  {{- end }}
{{- end -}}

{{/* A part's own variables over the stand-ins for Secrets of other clusters' workers. */}}
{{- define "drakkar.variables" -}}
{{- $cluster := .cluster | default "" -}}
{{- $found := dict -}}
{{- range .root.Values.workers -}}
{{- if ne .cluster $cluster -}}
{{- range $name, $value := .standIns -}}
{{- $_ := set $found $name $value -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range .root.Values.workers -}}
{{- if eq .cluster $cluster -}}
{{- range $name, $value := .standIns -}}
{{- $_ := unset $found $name -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $name, $value := .env -}}
{{- $_ := set $found $name $value -}}
{{- end -}}
{{- toYaml $found -}}
{{- end -}}
