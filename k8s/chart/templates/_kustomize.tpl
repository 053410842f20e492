{{- /* As much of kustomize as k8s/ uses: adds what the folder .dir names to .all ("Kind/name": object), with its patches and labels. */ -}}
{{- define "pgw.kustomize" -}}
{{- $k := .files.Get (printf "%s/kustomization.yaml" .dir) | required (printf "components: there is no %s" (base .dir)) | fromYaml -}}
{{- range concat ($k.resources | default list) ($k.components | default list) -}}
  {{- $path := clean (printf "%s/%s" $.dir .) -}}
  {{- if not (hasSuffix ".yaml" .) -}}{{- include "pgw.kustomize" (dict "files" $.files "all" $.all "dir" $path) -}}{{- end -}}
  {{- range regexSplit "(?m)^---$" ($.files.Get $path) -1 -}}{{- with fromYaml . -}}
    {{- range .items | default (list .) -}}{{- $_ := set $.all (printf "%s/%s" .kind .metadata.name) . -}}{{- end -}}
  {{- end -}}{{- end -}}
{{- end -}}
{{- range $k.configMapGenerator -}}
  {{- $metadata := merge (pick . "name" "namespace") (pick (.options | default dict) "labels") -}}
  {{- $data := dict -}}
  {{- range .files -}}{{- $_ := set $data (regexFind "^[^=]+" .) ($.files.Get (printf "%s/%s" $.dir (regexFind "[^=]+$" .))) -}}{{- end -}}
  {{- $_ := set $.all (printf "ConfigMap/%s" .name) (dict "apiVersion" "v1" "kind" "ConfigMap" "metadata" $metadata "data" $data) -}}
{{- end -}}
{{- range $k.patches -}}
  {{- include "pgw.patch" (dict "all" $.all "target" .target "patch" (.patch | default ($.files.Get (printf "%s/%s" $.dir .path)))) -}}
{{- end -}}
{{- range $labels := $k.labels -}}{{- range $.all -}}
  {{- $_ := set .metadata "labels" (merge (dict) $labels.pairs (.metadata.labels | default dict)) -}}
  {{- with dig "spec" "template" "metadata" dict . -}}{{- $_ := set . "labels" (merge (dict) $labels.pairs .labels) -}}{{- end -}}
{{- end -}}{{- end -}}
{{- end -}}
{{- /* A JSON patch of what .target matches, or a strategic merge patch, which may name its object itself. */ -}}
{{- define "pgw.patch" -}}
{{- $named := fromYaml .patch -}}
{{- $target := .target | default (dict "kind" $named.kind "name" (dig "metadata" "name" "" $named)) -}}
{{- $pattern := printf "^(%s) (%s) (%s)$" ($target.group | default ".*") ($target.kind | default ".*") ($target.name | default ".*") -}}
{{- $found := .target -}}
{{- range $key, $object := .all -}}{{- if regexMatch $pattern (printf "%s %s %s" (dir .apiVersion) .kind .metadata.name) -}}
  {{- $found = $key -}}
  {{- $from := merge (dict "metadata" (dict "name" .metadata.name)) (fromYaml $.patch) -}}
  {{- if $from.Error -}}{{- range fromYamlArray $.patch -}}{{- include "pgw.operation" (dict "to" $object "op" .) -}}{{- end -}}
  {{- else if eq (get $from "$patch") "delete" -}}{{- $_ := unset $.all $key -}}
  {{- else -}}{{- include "pgw.merge" (dict "to" . "from" $from) -}}{{- end -}}
{{- end -}}{{- end -}}
{{- if not $found -}}{{- fail (printf "patches: there is no %s %s" $target.kind $target.name) -}}{{- end -}}
{{- end -}}
{{- /* One operation of a JSON patch: adds, replaces or removes a key, or adds to the end of a list. */ -}}
{{- define "pgw.operation" -}}
{{- $path := list -}}
{{- range splitList "/" (trimPrefix "/" .op.path) -}}{{- $path = append $path (. | replace "~1" "/" | replace "~0" "~") -}}{{- end -}}
{{- $last := last $path -}}
{{- $at := dict "here" .to -}}
{{- range initial $path -}}
  {{- if kindIs "slice" $at.here -}}{{- $at = dict "here" (index $at.here (int .)) -}}
  {{- else if kindIs "map" $at.here -}}{{- $at = dict "up" $at.here "key" . "here" (get $at.here .) -}}{{- end -}}
{{- end -}}
{{- $fits := and (kindIs "map" $at.here) (or (eq .op.op "add") (hasKey $at.here $last)) -}}
{{- if and (kindIs "slice" $at.here) (eq .op.op "add") (eq $last "-") -}}{{- $_ := set $at.up $at.key (append $at.here .op.value) -}}
{{- else if and $fits (eq .op.op "remove") -}}{{- $_ := unset $at.here $last -}}
{{- else if and $fits (has .op.op (list "add" "replace")) -}}{{- $_ := set $at.here $last .op.value -}}
{{- else -}}{{- fail (printf "patches: %s %s does not fit %s %s" .op.op .op.path .to.kind .to.metadata.name) -}}{{- end -}}
{{- end -}}
{{- /* Strategic merge: maps by key, lists of names by name, the new ones first; other values replace. */ -}}
{{- define "pgw.merge" -}}
{{- range $key, $value := .from -}}
  {{- $old := get $.to $key -}}
  {{- $by := ternary "mountPath" "name" (eq $key "volumeMounts") -}}
  {{- if kindIs "invalid" $value -}}{{- $_ := unset $.to $key -}}
  {{- else if and (kindIs "map" $value) (kindIs "map" $old) -}}{{- include "pgw.merge" (dict "to" $old "from" $value) -}}
  {{- else if and (kindIs "slice" $value) (kindIs "slice" $old) (kindIs "map" (first $value)) (hasKey (first $value) $by) -}}
    {{- $new := list -}}{{- $rest := $old -}}
    {{- range $item := $value -}}
      {{- $same := $item -}}
      {{- range $old -}}{{- if eq (get . $by) (get $item $by) -}}{{- $same = . -}}{{- $rest = without $rest . -}}{{- end -}}{{- end -}}
      {{- include "pgw.merge" (dict "to" $same "from" $item) -}}
      {{- $new = append $new $same -}}
    {{- end -}}
    {{- $_ := set $.to $key (concat $new $rest) -}}
  {{- else -}}{{- $_ := set $.to $key $value -}}{{- end -}}
{{- end -}}{{- end -}}
