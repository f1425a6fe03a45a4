{{/* Labels of an object of a part: (dict "root" $ "part" "ca"). */}}
{{- define "meshroot.selector" -}}
app.kubernetes.io/name: meshroot
app.kubernetes.io/component: {{ .part }}
{{- end }}
{{- define "meshroot.labels" -}}
{{ include "meshroot.selector" . }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "meshroot.podLabels" -}}
{{ merge (include "meshroot.labels" . | fromYaml) (index .root.Values .part).podLabels | toYaml }}
{{- end }}

{{- define "meshroot.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{/* What every pod has, Pod Security "restricted" and more: (dict "root" $ "part" "ca"). */}}
{{- define "meshroot.pod" -}}
{{- $v := index .root.Values .part -}}
serviceAccountName: meshroot-{{ .part }}
enableServiceLinks: false # MESHROOT_CA_PORT=tcp://... would be read as the flag --ca-port
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: { type: RuntimeDefault }
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with $v.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $v.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $v.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $v.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* What every container has. */}}
{{- define "meshroot.container" -}}
{{- $v := index .root.Values .part -}}
image: {{ include "meshroot.image" .root }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
resources: {{- toYaml $v.resources | nindent 2 }}
{{- end }}

{{/* Of a daemon: the truth is in /readyz; /healthz only says that the loop turns. */}}
{{- define "meshroot.probes" -}}
startupProbe:
  httpGet: { path: /healthz, port: monitoring }
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  httpGet: { path: /healthz, port: monitoring }
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: { path: /readyz, port: monitoring }
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
{{- end }}

{{- define "meshroot.spread" -}}
topologySpreadConstraints:
  {{- range $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "meshroot.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}

{{/* volumeClaimTemplates of a StatefulSet, when its part keeps its state. */}}
{{- define "meshroot.claims" -}}
{{- $p := (index .root.Values .part).persistence -}}
{{- if $p.enabled -}}
volumeClaimTemplates:
  - metadata:
      name: state
      labels: {{- include "meshroot.selector" . | nindent 8 }}
    spec:
      accessModes: [ReadWriteOnce]
      {{- with $p.storageClass }}
      storageClassName: {{ . }}
      {{- end }}
      resources:
        requests:
          storage: {{ $p.size }}
{{- end }}
{{- end }}

{{/* Of istiod's own certificate: a revision's Service, and the one that webhooks and old agents know. */}}
{{- define "meshroot.istiodNames" -}}
{{- $ns := .Values.mesh.namespace -}}
{{- concat (list (printf "%s.%s.svc" .Values.mesh.istiod $ns) (printf "istiod.%s.svc" $ns)) .Values.ca.servingNames | uniq | join "," -}}
{{- end }}

{{- define "meshroot.vaultSuffix" -}}
{{ .Values.vault.dnsSuffix | default (printf "%s.svc" .Release.Namespace) }}
{{- end }}

{{- define "meshroot.vaultName" -}}
{{ first (concat .Values.vault.names (list "meshroot-vault")) }}
{{- end }}
