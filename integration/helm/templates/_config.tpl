{{/* The configuration, read. Fails where it is no mapping with clusters. */}}
{{- define "drakkar.config" -}}
{{- $config := fromYaml .Values.config -}}
{{- if hasKey $config "Error" -}}
{{- fail (printf "config: expected the text of drakkar.yaml, got what is no YAML mapping: %s" (get $config "Error")) -}}
{{- end -}}
{{- if not (kindIs "map" (get $config "site")) -}}
{{- fail "config: expected a section site, got none" -}}
{{- end -}}
{{- if not (kindIs "map" (get $config "clusters")) -}}
{{- fail "config: expected a section clusters, got none" -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/* An entry of workers with the defaults, key by key; scaling by its own keys. Takes root and entry. */}}
{{- define "drakkar.worker" -}}
{{- $worker := deepCopy .root.Values.workerDefaults -}}
{{- $scaling := $worker.scaling -}}
{{- range $key, $value := .entry -}}
{{- $_ := set $worker $key $value -}}
{{- end -}}
{{- range $key, $value := .entry.scaling -}}
{{- $_ := set $scaling $key $value -}}
{{- end -}}
{{- toYaml (set $worker "scaling" $scaling) -}}
{{- end -}}

{{/* A cluster of the configuration. Takes root and cluster. Fails where there is none of that name. */}}
{{- define "drakkar.cluster" -}}
{{- $clusters := get (fromYaml (include "drakkar.config" .root)) "clusters" -}}
{{- if not (hasKey $clusters .cluster) -}}
{{- fail (printf "workers: cluster: expected one of config's (%s), got %q" (keys $clusters | sortAlpha | join ", ") .cluster) -}}
{{- end -}}
{{- toYaml (get $clusters .cluster) -}}
{{- end -}}

{{/* The port of a worker's metrics. Takes the cluster. */}}
{{- define "drakkar.metricsPort" -}}
{{- get (get . "metrics" | default dict) "port" | default 9090 | int64 -}}
{{- end -}}

{{/* From SIGTERM to SIGKILL: the drain's budget and ten seconds. Takes worker (with defaults) and cluster. */}}
{{- define "drakkar.graceSeconds" -}}
{{- if not (kindIs "invalid" .worker.terminationGracePeriodSeconds) -}}
{{- .worker.terminationGracePeriodSeconds | int64 -}}
{{- else -}}
{{- $drain := get .cluster "drain_timeout_seconds" | default 30 -}}
{{- if kindIs "string" $drain -}}
{{- fail (printf "config: clusters.%s.drain_timeout_seconds: expected a number, got %q: write the number, or set terminationGracePeriodSeconds of its workers" .worker.cluster $drain) -}}
{{- end -}}
{{- add (ceil $drain | int64) 10 -}}
{{- end -}}
{{- end -}}

{{/* Fails where a pod could not run with this configuration; makes nothing. */}}
{{- define "drakkar.checks" -}}
{{- $site := get (fromYaml (include "drakkar.config" .)) "site" -}}
{{- include "drakkar.check" (dict "key" "site.export_dir" "got" (get $site "export_dir") "start" "/var/lib/drakkar/exports" "what" "/var/lib/drakkar/exports, where web and controller share a volume") -}}
{{- include "drakkar.check" (dict "key" "site.controller_metrics_host" "got" (get $site "controller_metrics_host") "start" "0.0.0.0" "what" "0.0.0.0, for probes come from outside of the pod") -}}
{{- $names := dict -}}
{{- range .Values.workers -}}
{{- $cluster := fromYaml (include "drakkar.cluster" (dict "root" $ "cluster" .cluster)) -}}
{{- $name := include "drakkar.workerName" (dict "root" $ "cluster" .cluster) -}}
{{- if hasKey $names $name -}}
{{- fail (printf "workers: cluster: expected each cluster once, got two of the name %s: %s and %s" $name (get $names $name) .cluster) -}}
{{- end -}}
{{- $_ := set $names $name .cluster -}}
{{- $key := printf "clusters.%s" .cluster -}}
{{- include "drakkar.check" (dict "key" (printf "%s.recorder.spool_dir" $key) "got" (get (get $cluster "recorder" | default dict) "spool_dir") "start" "/var/lib/drakkar/" "what" "a folder below /var/lib/drakkar/, which outlives the pod") -}}
{{- include "drakkar.check" (dict "key" (printf "%s.metrics.host" $key) "got" (get (get $cluster "metrics" | default dict) "host") "start" "0.0.0.0" "what" "0.0.0.0, for probes come from outside of the pod") -}}
{{- end -}}
{{- end -}}

{{/* Fails where a value of the configuration does not begin as it must. Takes key, got, start and what. */}}
{{- define "drakkar.check" -}}
{{- $got := .got | default "" | toString -}}
{{- if not (hasPrefix .start $got) -}}
{{- fail (printf "config: %s: expected %s, got %q" .key .what $got) -}}
{{- end -}}
{{- end -}}
