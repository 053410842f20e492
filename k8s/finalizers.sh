#!/bin/sh
# Keeps PostgresWriters and PostgresRows during a switch of controllers, and removes finalizers whose controller is gone. It
# changes only metadata.finalizers: it writes no row and deletes no resource (but one that is being deleted disappears with its last
# finalizer).
#
#   finalizers.sh hold                 add a finalizer of our own, demo.yash.com/hold, to all resources; fails while one
#                                      without it is being deleted, because nothing can be added to that one any more
#   finalizers.sh release NEW          remove demo.yash.com/hold from the resources that NEW's controller manages
#   finalizers.sh list FINALIZER       list the resources that have this finalizer
#   finalizers.sh remove FINALIZER     remove it from all of them; their rows stay in the database
#   finalizers.sh handover OLD NEW     remove OLD from the resources that NEW's controller manages: those that have NEW,
#                                      and those being deleted whose status says that the row is deleted or unmanaged
#
# A finalizer of a CompositeController stands for that of its companion for PostgresRows, too, whose name ends in -row.
#
# The exit code is 1 while some resources still have the finalizer (with hold: do not have it yet): check those, and run
# it again.
# KUBECTL is the command to use, for example KUBECTL="kubectl --context production".
set -eu

HOLD=demo.yash.com/hold

die() {
    echo "finalizers.sh: $*" >&2
    exit 1
}

usage() {
    die "usage: finalizers.sh hold | release NEW | list FINALIZER | remove FINALIZER | handover OLD NEW"
}

kube() {
    # Unquoted on purpose: KUBECTL may include options.
    # shellcheck disable=SC2086
    ${KUBECTL:-kubectl} "$@"
}

check_name() {
    case $1 in
    '' | *[!A-Za-z0-9./_-]*) die "'$1' is not the name of a finalizer" ;;
    esac
}

# A controller that still runs would add its finalizer again, or write beside the new one.
check_controller_is_gone() {
    case $1 in
    metacontroller.io/compositecontroller-*) kind=compositecontroller ;;
    metacontroller.io/decoratorcontroller-*) kind=decoratorcontroller ;;
    *) return 0 ;;
    esac
    found=$(kube get crd "${kind}s.metacontroller.k8s.io" --ignore-not-found -o name)
    [ -n "$found" ] || return 0
    name=${1#*controller-}
    found=$(kube get "$kind.metacontroller.k8s.io" "$name" "$name-row" --ignore-not-found -o name | tr '\n' ' ')
    [ -z "$found" ] || die "the controller of $1 is still installed: delete it first (kubectl delete ${found% })"
}

# Sets $RESOURCES to those of our kinds that the cluster knows, with commas between.
find_resources() {
    found=$(kube get crd postgreswriters.demo.yash.com postgresrows.demo.yash.com --ignore-not-found -o name)
    RESOURCES=$(printf '%s' "$found" | sed 's|.*/||' | paste -s -d , -)
    [ -n "$RESOURCES" ] || die "this cluster has no CustomResourceDefinition of PostgresWriter or PostgresRow"
}

# Prints "INDEX FINALIZER VERSION KIND NAMESPACE NAME" for each resource that has the finalizer $1, or that with -row; INDEX is
# its place in the list of finalizers. With $2, only of those that may be handed over to $2.
carriers() {
    free=true
    [ -z "${2:-}" ] || free=false
    kube get "$RESOURCES" --all-namespaces -o go-template="
{{- range \$object := .items}}
  {{- \$free := $free}}
  {{- range .metadata.finalizers}}{{if eq . \"${2:-}\" \"${2:-}-row\"}}{{\$free = true}}{{end}}{{end}}
  {{- if and .metadata.deletionTimestamp .status}}{{range .status.conditions}}
    {{- if and (eq .type \"Ready\") (or (eq .reason \"RowDeleted\") (eq .reason \"Unmanaged\"))}}{{\$free = true}}{{end}}
  {{- end}}{{end}}
  {{- range \$index, \$finalizer := .metadata.finalizers}}{{if and \$free (eq \$finalizer \"$1\" \"$1-row\")}}
    {{- \$index}} {{\$finalizer}} {{\$object.apiVersion}} {{\$object.kind}} {{\$object.metadata.namespace}} {{\$object.metadata.name}}{{\"\n\"}}
  {{- end}}{{end}}
{{- end}}"
}

# Prints "FINALIZERS VERSION KIND NAMESPACE NAME" for each resource that does not have the finalizer $1; FINALIZERS is its list of
# finalizers as JSON, null if there is none.
without() {
    kube get "$RESOURCES" --all-namespaces -o go-template="
{{- range .items}}
  {{- \$carried := false}}
  {{- range .metadata.finalizers}}{{if eq . \"$1\"}}{{\$carried = true}}{{end}}{{end}}
  {{- if not \$carried}}
    {{- if .metadata.finalizers}}[{{range \$i, \$one := .metadata.finalizers}}{{if \$i}},{{end}}\"{{\$one}}\"{{end}}]{{else}}null{{end}}
    {{- printf \" %s %s %s %s\\n\" .apiVersion .kind .metadata.namespace .metadata.name}}
  {{- end}}
{{- end}}"
}

# Patches each resource that stdin names as "VERSION KIND NAMESPACE NAME" with the JSON patch $1. One that fails does not keep the
# others from being patched; the caller looks at what is left.
patch() {
    while read -r version kind namespace name; do
        printf -- '---\napiVersion: %s\nkind: %s\n' "$version" "$kind"
        printf 'metadata: {namespace: "%s", name: "%s"}\n' "$namespace" "$name"
    done | kube patch -f - --type=json -p "$1" || true
}

# Adds $HOLD to all resources. Those with the same list of finalizers are patched in one call, and each patch tests that the list
# is still the same, so that nothing that others write at the same time is overwritten. Nothing but that list is touched: server-side
# apply would take over, and then remove, what a client-side apply owned. Resources created meanwhile are not held, and are not reported.
hold() {
    unheld=$(without "$HOLD")
    [ -n "$unheld" ] || return 0
    printf '%s\n' "$unheld" | cut -d ' ' -f 1 | sort -u | while read -r finalizers; do
        case $finalizers in
        null) add="{\"op\": \"add\", \"path\": \"/metadata/finalizers\", \"value\": [\"$HOLD\"]}" ;;
        *) add="{\"op\": \"add\", \"path\": \"/metadata/finalizers/-\", \"value\": \"$HOLD\"}" ;;
        esac
        printf '%s\n' "$unheld" | awk -v list="$finalizers" '$1 == list {print $2, $3, $4, $5}' |
            patch "[{\"op\": \"test\", \"path\": \"/metadata/finalizers\", \"value\": $finalizers}, $add]"
    done
    rest=$({ printf '%s\n\n' "$unheld"; without "$HOLD"; } | cut -d ' ' -f 2- |
        awk '!NF {now = 1} now && $0 in first; !now {first[$0]}')
    [ -z "$rest" ] || complain "These resources are not held. One that is being deleted cannot be: wait until it is gone, and try again." "$rest"
}

# Removes the finalizers that stdin lists as "INDEX FINALIZER VERSION KIND NAMESPACE NAME". All of one place are patched in one
# call, and each patch tests that the finalizer is still there, so that no other one is ever removed instead.
take_off() {
    list=$(cat)
    printf '%s\n' "$list" | awk 'NF {print $1, $2}' | sort -u | while read -r index finalizer; do
        printf '%s\n' "$list" | sed -n "s|^$index $finalizer ||p" | patch "[
            {\"op\": \"test\", \"path\": \"/metadata/finalizers/$index\", \"value\": \"$finalizer\"},
            {\"op\": \"remove\", \"path\": \"/metadata/finalizers/$index\"}]"
    done
}

complain() {
    echo "$1" >&2
    printf '%s\n' "$2" | sed 's|^[^ ]* \([^ ]* [^ ]*\) |  \1/|' >&2
    return 1
}

show_rest() {
    rest=$(carriers "$1" | cut -d ' ' -f 3-)
    [ -z "$rest" ] || complain "These resources still have the finalizer $1:" "$rest"
}

[ $# -ge 1 ] || usage
[ $# -eq 1 ] || check_name "$2"
case $1:$# in
hold:1 | list:2 | remove:2) ;;
release:2) [ "$2" != "$HOLD" ] || die "NEW is the finalizer of the new controller, not $HOLD" ;;
handover:3)
    check_name "$3"
    [ "$2" != "$3" ] || die "OLD and NEW are the same finalizer"
    ;;
*) usage ;;
esac
find_resources
case $1 in
hold)
    hold
    ;;
release)
    carriers "$HOLD" "$2" | take_off
    show_rest "$HOLD"
    ;;
list)
    carriers "$2" | while read -r _ _ _ kind namespace name; do echo "$kind $namespace/$name"; done
    ;;
remove | handover)
    check_controller_is_gone "$2"
    carriers "$2" "${3:-}" | take_off
    show_rest "$2"
    ;;
esac
