{{/* Names, labels, images and what every pod of ours has. */}}

{{/* Labels that select an object's pods: (dict "root" $ "component" "mlflow"). */}}
{{- define "effir.selector" -}}
app.kubernetes.io/name: effir
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* All labels of an object: (dict "root" $ "component" "mlflow"). */}}
{{- define "effir.labels" -}}
{{ include "effir.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* An image of ours: (dict "root" $ "image" .Values.images.task "suffix" "-cuda"). */}}
{{- define "effir.image" -}}
{{- $repository := .image.repository -}}
{{- with .root.Values.images.registry }}{{ $repository = printf "%s/%s" (trimSuffix "/" .) $repository }}{{ end -}}
{{- $tag := default (print .root.Chart.AppVersion .suffix) .image.tag -}}
{{- if .image.digest }}{{ printf "%s@%s" $repository .image.digest }}{{ else }}{{ printf "%s:%s" $repository $tag }}{{ end -}}
{{- end }}

{{/* The image of Airflow, named by the values of its own chart. */}}
{{- define "effir.airflowImage" -}}
{{- with .Values.airflow -}}
{{- if .defaultAirflowDigest }}{{ printf "%s@%s" .defaultAirflowRepository .defaultAirflowDigest }}
{{- else }}{{ printf "%s:%s" .defaultAirflowRepository .defaultAirflowTag }}{{ end -}}
{{- end -}}
{{- end }}

{{- define "effir.pullSecrets" -}}
{{- with .Values.images.pullSecrets -}}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{ end -}}
{{- end }}

{{- define "effir.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "effir.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* What the pods of services and of the setup job start with. */}}
{{- define "effir.servicePod" -}}
serviceAccountName: {{ .Values.name }}-services
automountServiceAccountToken: false
enableServiceLinks: false
{{ include "effir.pullSecrets" . -}}
securityContext:
  {{- include "effir.podSecurity" . | nindent 2 }}
{{- end }}

{{/* Never fewer than one pod: (dict "root" $ "component" "mlflow"). */}}
{{- define "effir.disruptionBudget" -}}
{{- if .root.Values.podDisruptionBudgets.enabled }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ .root.Values.name }}-{{ .component }}
  labels:
    {{- include "effir.labels" . | nindent 4 }}
spec:
  minAvailable: 1
  selector:
    matchLabels:
      {{- include "effir.selector" . | nindent 6 }}
{{- end }}
{{- end }}
