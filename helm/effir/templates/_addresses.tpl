{{/* Where things are reached. */}}

{{- define "effir.s3Endpoint" -}}
{{- if .Values.s3.server.enabled }}http://{{ .Values.name }}-s3.{{ .Release.Namespace }}:8333{{ else }}{{ .Values.s3.endpoint }}{{ end -}}
{{- end }}

{{- define "effir.mlflowUri" -}}
{{- if .Values.mlflow.enabled }}http://{{ .Values.name }}-mlflow.{{ .Release.Namespace }}:5000{{ else }}{{ .Values.mlflow.trackingUri }}{{ end -}}
{{- end }}

{{/* The api-server's Service of the Airflow chart is called after the release. */}}
{{- define "effir.airflowApi" -}}
{{- default (ternary (printf "http://%s-api-server:8080" .Release.Name) "" .Values.airflow.enabled) .Values.setup.airflowUrl -}}
{{- end }}

{{/* The port of a URL. */}}
{{- define "effir.port" -}}
{{- $host := (urlParse .).host -}}
{{- if regexMatch ":[0-9]+$" $host }}{{ regexFind "[0-9]+$" $host }}{{ else if hasPrefix "http://" . }}80{{ else }}443{{ end -}}
{{- end }}

{{/* Where S3 is, as variables that boto3 and MLflow read. */}}
{{- define "effir.s3Environment" -}}
AWS_DEFAULT_REGION: {{ .Values.s3.region | quote }}
{{- with include "effir.s3Endpoint" . }}
AWS_ENDPOINT_URL_S3: {{ . | quote }}
MLFLOW_S3_ENDPOINT_URL: {{ . | quote }}
{{- end }}
{{- end }}

{{/* Variables of Airflow that it hands on to every phase. */}}
{{- define "effir.taskEnvironment" -}}
{{ include "effir.s3Environment" . }}
EFFIR_STORE: {{ .Values.s3.store | quote }}
MLFLOW_TRACKING_URI: {{ include "effir.mlflowUri" . | quote }}
{{- if .Values.task.data.existingClaim }}
EFFIR_DATA: {{ .Values.task.data.mountPath | quote }}
{{- end }}
{{- range $name, $value := .Values.environment }}
{{ $name }}: {{ $value | quote }}
{{- end }}
{{- end }}
