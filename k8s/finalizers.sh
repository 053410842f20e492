#!/bin/sh
# Keeps PostgresWriters during a switch of controllers, and removes finalizers whose controller is gone. It changes only
# metadata.finalizers: it writes no row and deletes no resource (but one that is being deleted disappears with its last
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
    found=$(kube get "$kind.metacontroller.k8s.io" "${1#*controller-}" --ignore-not-found -o name)
    [ -z "$found" ] || die "$found is still installed and owns $1: delete it first (kubectl delete $found)"
}

# Prints "INDEX NAMESPACE NAME" for each resource that has the finalizer $1; INDEX is its place in the list of finalizers.
# With $2, only of those that may be handed over to $2.
carriers() {
    free=true
    [ -z "${2:-}" ] || free=false
    kube get postgreswriters.demo.yash.com --all-namespaces -o go-template="
{{- range \$object := .items}}
  {{- \$free := $free}}
  {{- range .metadata.finalizers}}{{if eq . \"${2:-}\"}}{{\$free = true}}{{end}}{{end}}
  {{- if and .metadata.deletionTimestamp .status}}{{range .status.conditions}}
    {{- if and (eq .type \"Ready\") (or (eq .reason \"RowDeleted\") (eq .reason \"Unmanaged\"))}}{{\$free = true}}{{end}}
  {{- end}}{{end}}
  {{- range \$index, \$finalizer := .metadata.finalizers}}{{if and \$free (eq \$finalizer \"$1\")}}
    {{- \$index}} {{\$object.metadata.namespace}} {{\$object.metadata.name}}{{\"\n\"}}
  {{- end}}{{end}}
{{- end}}"
}

# Prints "NAMESPACE NAME" for each resource that does not have the finalizer $1.
without() {
    kube get postgreswriters.demo.yash.com --all-namespaces -o go-template="
{{- range .items}}
  {{- \$carried := false}}
  {{- range .metadata.finalizers}}{{if eq . \"$1\"}}{{\$carried = true}}{{end}}{{end}}
  {{- if not \$carried}}{{.metadata.namespace}} {{.metadata.name}}{{\"\n\"}}{{end}}
{{- end}}"
}

# Prints a manifest for each resource that stdin names as "... NAMESPACE NAME"; $1 is added to its metadata.
manifests() {
    while read -r namespace name; do
        printf -- '---\napiVersion: demo.yash.com/v1\nkind: PostgresWriter\n'
        printf 'metadata: {namespace: "%s", name: "%s"%s}\n' "$namespace" "$name" "${1:-}"
    done
}

# Adds $HOLD to all resources. Server-side apply adds to the list of finalizers, and cannot overwrite what others write
# into it at the same time. Resources created meanwhile are not held, and are not reported.
hold() {
    unheld=$(without "$HOLD")
    [ -n "$unheld" ] || return 0
    printf '%s\n' "$unheld" | manifests ", finalizers: [$HOLD]" |
        kube apply --server-side --field-manager=postgres-writer-hold -f - || true
    rest=$({ printf '%s\n\n' "$unheld"; without "$HOLD"; } | awk '!NF {now = 1} now && $0 in first; !now {first[$0]}')
    [ -z "$rest" ] || complain "These resources are not held. One that is being deleted cannot be: wait until it is gone, and try again." "$rest"
}

# Removes the finalizer $1 from the resources that stdin names as "INDEX NAMESPACE NAME". All of one index are patched in
# one call, and each patch tests that the finalizer is still there, so that no other one is ever removed instead.
take_off() {
    list=$(cat)
    for index in $(printf '%s\n' "$list" | cut -d ' ' -f 1 | sort -u); do
        printf '%s\n' "$list" | sed -n "s/^$index //p" | manifests | kube patch -f - --type=json -p "[
            {\"op\": \"test\", \"path\": \"/metadata/finalizers/$index\", \"value\": \"$1\"},
            {\"op\": \"remove\", \"path\": \"/metadata/finalizers/$index\"}]" || true
    done
}

complain() {
    echo "$1" >&2
    printf '%s\n' "$2" | sed 's|^\([^ ]*\) |  \1/|' >&2
    return 1
}

show_rest() {
    rest=$(carriers "$1" | cut -d ' ' -f 2-)
    [ -z "$rest" ] || complain "These resources still have the finalizer $1:" "$rest"
}

[ $# -ge 1 ] || usage
[ $# -eq 1 ] || check_name "$2"
case $1:$# in
hold:1)
    hold
    ;;
release:2)
    [ "$2" != "$HOLD" ] || die "NEW is the finalizer of the new controller, not $HOLD"
    carriers "$HOLD" "$2" | take_off "$HOLD"
    show_rest "$HOLD"
    ;;
list:2)
    carriers "$2" | while read -r _ namespace name; do echo "$namespace/$name"; done
    ;;
remove:2)
    check_controller_is_gone "$2"
    carriers "$2" | take_off "$2"
    show_rest "$2"
    ;;
handover:3)
    check_name "$3"
    [ "$2" != "$3" ] || die "OLD and NEW are the same finalizer"
    check_controller_is_gone "$2"
    carriers "$2" "$3" | take_off "$2"
    show_rest "$2"
    ;;
*) usage ;;
esac
