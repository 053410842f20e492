{{- /* The sources of the volume `databases`: an existing Secret has what the values do not. "~" lets its name be replaced by nothing. */ -}}
{{- define "pgw.sources" -}}
{{- $page := splitList "\n## Server" (.Files.Get "files/docs/configuration.md") | first -}}
{{- $settings := regexFindAll "`PSQL_[A-Z_]+` \\|" $page -1 | join "" | replace "` |" "" | lower | splitList "`psql_" | rest -}}
{{- range $name, $of := .Values.databases }}
{{- $own := ternary "" (printf "postgres-writer-database-%s" $name) (empty (omit $of "existingSecret")) }}
{{- range $secret := compact (list $of.existingSecret $own) }}
- secret: {name: ~{{ $secret }}, optional: true, items: [
  {{- range concat $settings (list "ca.crt" "tls.crt" "tls.key") }}
  {{- if eq (hasKey $of .) (eq $secret $own) }}{key: {{ . }}, path: {{ $name }}/{{ . }}}, {{ end }}{{ end }}]}
{{- end }}{{ end }}
{{- end -}}
