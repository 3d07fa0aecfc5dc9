{{- define "trilemma.environment" -}}
- {name: TRILEMMA_HOST, value: 0.0.0.0}
- {name: TRILEMMA_PORT, value: "8000"}
{{- if .Values.grpc.enabled }}
- {name: TRILEMMA_GRPC_PORT, value: "9000"}
{{- end }}
- {name: TRILEMMA_LOG_FORMAT, value: {{ .Values.settings.log_format | default "json" }}}
- {name: TRILEMMA_SHUTDOWN_S, value: {{ int .Values.shutdownSeconds | quote }}}
- {name: TRILEMMA_DEVICE, value: {{ ternary "cuda" "cpu" .Values.gpu.enabled }}}
{{- if ne .Values.bundles.source "image" }}
- {name: TRILEMMA_BUNDLES, value: /bundles}
{{- end }}
{{- if .Values.keys.secret }}
- {name: TRILEMMA_KEYS, value: /keys/keys.toml}
{{- end }}
{{- range $name, $value := omit .Values.settings "log_format" }}
- name: {{ printf "TRILEMMA_%s" (upper $name) }}
  value: {{ (kindIs "string" $value | ternary $value (toJson $value)) | quote }}
{{- end }}
{{- end }}

{{- define "trilemma.resources" -}}
{{- $gpu := dict .Values.gpu.resource "1" -}}
requests: {{- toYaml .Values.resources.requests | nindent 2 }}
limits: {{- toYaml (.Values.gpu.enabled | ternary (merge $gpu .Values.resources.limits) .Values.resources.limits) | nindent 2 }}
{{- end }}
