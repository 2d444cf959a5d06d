{{/* What values.schema.json cannot say: values that do not go together, each refused in one sentence. */}}
{{- define "effir.check" -}}
{{- range $name, $image := omit .Values.images "registry" "pullPolicy" "pullSecrets" -}}
  {{- if eq $image.tag "latest" }}{{ fail (printf "images.%s.tag is latest, which may be another image tomorrow: name a version" $name) }}{{ end -}}
{{- end -}}
{{- if eq .Values.airflow.defaultAirflowTag "latest" }}{{ fail "airflow.defaultAirflowTag is latest, which may be another image tomorrow: name a version" }}{{ end -}}
{{- if .Values.s3.server.enabled -}}
  {{- if .Values.s3.endpoint }}{{ fail "s3.endpoint names a server, and s3.server.enabled starts another: leave one of them out" }}{{ end -}}
  {{- if not .Values.s3.existingSecret }}{{ fail "s3.server needs keys: name a Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in s3.existingSecret" }}{{ end -}}
{{- end -}}
{{- if and .Values.mlflow.enabled .Values.mlflow.trackingUri }}{{ fail "mlflow.trackingUri names a server, and mlflow.enabled starts another: leave one of them out" }}{{ end -}}
{{- if .Values.airflow.enabled -}}
  {{- if not (and (contains (printf "%s-runner" .Values.name) (toJson .Values.airflow.volumes)) (contains (printf "%s-environment" .Values.name) (toJson .Values.airflow.extraEnvFrom))) -}}
    {{- fail (printf "name is %s: let airflow.volumes and airflow.extraEnvFrom name %s-runner and %s-environment" .Values.name .Values.name .Values.name) -}}
  {{- end -}}
{{- end -}}
{{- if not (or .Values.mlflow.enabled .Values.mlflow.trackingUri) }}{{ fail "mlflow.enabled is false: say in mlflow.trackingUri where MLflow is" }}{{ end -}}
{{- if and .Values.mlflow.enabled (not .Values.mlflow.existingSecret) (gt (int .Values.mlflow.replicas) 1) -}}
  {{- fail "mlflow.replicas is above 1, and SQLite serves one: name a Secret with backend-store-uri in mlflow.existingSecret, or set mlflow.replicas to 1" -}}
{{- end -}}
{{- if and .Values.setup.enabled (not (include "effir.airflowApi" .)) -}}
  {{- fail "setup.airflowUrl is empty and airflow.enabled is false: say where Airflow's api-server is, or turn setup.enabled off" -}}
{{- end -}}
{{- if .Values.networkPolicy.enabled -}}
  {{- if not (or .Values.s3.server.enabled .Values.networkPolicy.s3) }}{{ fail "networkPolicy.s3 is empty: name the peers that are your S3 server, or phases cannot reach it" }}{{ end -}}
  {{- if not (or .Values.mlflow.enabled .Values.networkPolicy.mlflow) }}{{ fail "networkPolicy.mlflow is empty: name the peers that are your MLflow, or phases cannot reach it" }}{{ end -}}
  {{- if not .Values.networkPolicy.dns }}{{ fail "networkPolicy.dns is empty: name the peers that answer DNS, or phases find nothing" }}{{ end -}}
{{- end -}}
{{- if and .Values.priorityClass.create (not .Values.task.priorityClassName) }}{{ fail "priorityClass.create makes a class: name it in task.priorityClassName" }}{{ end -}}
{{- include "effir.checkPhases" . -}}
{{- include "effir.checkAccess" . -}}
{{- include "effir.checkDeployments" . -}}
{{- include "effir.checkSecrets" . -}}
{{- end }}

{{/* Where MLflow asks for logins, every role brings one. */}}
{{- define "effir.checkAccess" -}}
{{- if and .Values.mlflow.usersSecret (not .Values.mlflow.enabled) }}{{ fail "mlflow.usersSecret names users of an MLflow that mlflow.enabled does not start: leave it out" }}{{ end -}}
{{- range $role := list "compute" "judge" "decide" "promote" -}}
  {{- if and $.Values.mlflow.usersSecret (not (dig $role "secrets" $.Values.runner.secrets $.Values.runner.roles)) -}}
    {{- fail (printf "mlflow.usersSecret asks for logins, and phases of the role %s have none: name a Secret with MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in runner.roles.%s.secrets" $role $role) -}}
  {{- end -}}
{{- end -}}
{{- end }}

{{- define "effir.checkPhases" -}}
{{- $usual := .Values.runner.resources -}}
{{- $slots := 0 -}}
{{- range .Values.setup.pools }}{{ if eq .name "compute" }}{{ $slots = int .slots }}{{ end }}{{ end -}}
{{- range $phase, $own := set (deepCopy .Values.runner.phases) "" dict -}}
  {{- $where := ternary (printf "phases.%s" $phase) "resources" (ne $phase "") -}}
  {{- $wanted := dict -}}
  {{- range list "gpus" "processes" "nodes" }}{{ $_ := set $wanted . (ternary (get $own .) (get $usual .) (hasKey $own .)) }}{{ end -}}
  {{- if and (gt (int $wanted.gpus) 0) (gt (int $wanted.processes) (int $wanted.gpus)) -}}
    {{- fail (printf "runner.%s wants %d processes on %d GPUs: at most one a GPU" $where (int $wanted.processes) (int $wanted.gpus)) -}}
  {{- end -}}
  {{- $takes := mul (int $wanted.gpus) (int $wanted.nodes) -}}
  {{- if and $.Values.setup.enabled $slots (gt $takes $slots) -}}
    {{- fail (printf "runner.%s takes %d GPUs, and the pool compute in setup.pools has %d slots: it would wait forever" $where $takes $slots) -}}
  {{- end -}}
{{- end -}}
{{- end }}

{{- define "effir.checkDeployments" -}}
{{- $names := list -}}
{{- range .Values.deployments -}}
  {{- if eq (hasKey . "cron") (hasKey . "assets") }}{{ fail (printf "deployments: %s needs either cron or assets, to say when it runs" .name) }}{{ end -}}
  {{- if has .name $names }}{{ fail (printf "deployments: two are called %s: every one needs a name of its own" .name) }}{{ end -}}
  {{- $names = append $names .name -}}
{{- end -}}
{{- end }}

{{/* Secrets are named, never written down. */}}
{{- define "effir.checkSecrets" -}}
{{- range $name, $value := .Values.environment -}}
  {{- if regexMatch "(?i)(password|passwd|secret|token|credential|private_?key|access_?key|api_?key)" $name -}}
    {{- fail (printf "environment.%s looks like a secret: put it into a Secret and name that in runner.secrets" $name) -}}
  {{- end -}}
{{- end -}}
{{- range $path, $instead := dict "fernetKey" "fernetKeySecretName" "apiSecretKey" "apiSecretKeySecretName" "jwtSecret" "jwtSecretName" -}}
  {{- if get $.Values.airflow $path }}{{ fail (printf "airflow.%s holds a secret: put it into a Secret and name that in airflow.%s" $path $instead) }}{{ end -}}
{{- end -}}
{{- include "effir.checkAirflow" (omit .Values.airflow "global") -}}
{{- end }}

{{/* The Airflow chart's own defaults, which stand among these values too, hold passwords that everybody knows. */}}
{{- define "effir.checkAirflow" -}}
{{- if .enabled -}}
  {{- if not (dig "data" "metadataSecretName" "" .) }}{{ fail "airflow.data.metadataSecretName is empty: name a Secret that holds the database's address, key connection" }}{{ end -}}
  {{- range list "fernetKeySecretName" "apiSecretKeySecretName" "jwtSecretName" -}}
    {{- if not (get $ .) }}{{ fail (printf "airflow.%s is empty, so that a key would be made and written into the release: name a Secret" .) }}{{ end -}}
  {{- end -}}
  {{- if and (dig "postgresql" "enabled" false .) (not (dig "postgresql" "auth" "existingSecret" "" .)) }}{{ fail "airflow.postgresql.auth.existingSecret is empty, so that the password would be the chart's: name a Secret" }}{{ end -}}
  {{- if dig "createUserJob" "enabled" false . }}{{ fail "airflow.createUserJob makes a user whose password stands in the values: make users yourself" }}{{ end -}}
{{- end -}}
{{- end }}
