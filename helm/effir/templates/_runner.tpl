{{/* What the Kubernetes runner is told: dags/settings.py reads the one, KubernetesPodOperator the other. */}}

{{- define "effir.runner" -}}
{{- $root := . -}}
{{- $phases := dict -}}
{{- range $phase, $own := .Values.runner.phases -}}
  {{- $wanted := deepCopy $own -}}
  {{- if and (hasKey $own "gpus" | ternary $own.gpus $root.Values.runner.resources.gpus) (not $own.image) -}}
    {{- $_ := set $wanted "image" (include "effir.image" (dict "root" $root "image" $root.Values.images.taskCuda "suffix" "-cuda")) -}}
  {{- end -}}
  {{- $_ := set $phases $phase $wanted -}}
{{- end -}}
{{- $everywhere := ternary (dict "image" .Values.images.taskCuda "suffix" "-cuda") (dict "image" .Values.images.task "suffix" "") (gt (int .Values.runner.resources.gpus) 0) -}}
{{- $secrets := .Values.runner.secrets -}}
{{- $roles := dict -}}
{{- if .Values.runner.roles -}}
  {{- range $role := list "compute" "judge" "decide" "promote" -}}
    {{- $own := deepCopy (default dict (get $root.Values.runner.roles $role)) -}}
    {{- if and $root.Values.s3.existingSecret (not $own.secrets) }}{{ $_ := set $own "secrets" (list $root.Values.s3.existingSecret) }}{{ end -}}
    {{- $_ := set $roles $role $own -}}
  {{- end -}}
{{- else -}}
  {{- with .Values.s3.existingSecret }}{{ $secrets = prepend $secrets . | uniq }}{{ end -}}
{{- end -}}
{{- dict
  "image" (include "effir.image" (set $everywhere "root" .))
  "environment" (include "effir.taskEnvironment" . | fromYaml | keys | sortAlpha)
  "secrets" $secrets
  "namespace" .Release.Namespace
  "service_account" (printf "%s-task" .Values.name)
  "pod_template" "/etc/effir/pod.yaml"
  "training_service" (printf "%s-training" .Values.name)
  "node_selector" .Values.runner.node_selector
  "tolerations" .Values.runner.tolerations
  "image_pull_secrets" .Values.images.pullSecrets
  "grace_seconds" .Values.runner.grace_seconds
  "resources" .Values.runner.resources
  "phases" $phases
  "roles" $roles
  | toPrettyJson -}}
{{- end }}

{{/* What the runner does not set by itself: it adds image, command, variables, resources, volumes for /tmp and /dev/shm, and nodes. */}}
{{- define "effir.podTemplate" -}}
apiVersion: v1
kind: Pod
metadata:
  name: effir-task
  labels:
    {{- include "effir.labels" (dict "root" . "component" "task") | nindent 4 }}
    {{- with .Values.task.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    cluster-autoscaler.kubernetes.io/safe-to-evict: "false"
    karpenter.sh/do-not-disrupt: "true"
    {{- with .Values.task.annotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ .Values.name }}-task
  automountServiceAccountToken: false
  enableServiceLinks: false
  restartPolicy: Never
  terminationGracePeriodSeconds: {{ .Values.runner.grace_seconds }}
  {{- with include "effir.pullSecrets" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with .Values.task.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  securityContext:
    {{- include "effir.podSecurity" . | nindent 4 }}
  containers:
    - name: base
      image: {{ include "effir.image" (dict "root" . "image" .Values.images.task "suffix" "") }}
      imagePullPolicy: {{ .Values.images.pullPolicy }}
      securityContext:
        {{- include "effir.containerSecurity" . | nindent 8 }}
      {{- with .Values.runner.resources }}
      resources:
        requests: &resources
          cpu: {{ .cpus | toString | quote }}
          memory: {{ .memory }}
          ephemeral-storage: {{ .disk }}
        limits: *resources
      {{- end }}
      {{- with .Values.task.data }}
      {{- if .existingClaim }}
      volumeMounts:
        - {name: data, mountPath: {{ .mountPath }}, readOnly: true}
  volumes:
    - name: data
      persistentVolumeClaim: {claimName: {{ .existingClaim }}, readOnly: true}
      {{- end }}
      {{- end }}
{{- end }}
