#!/usr/bin/env bash
# Installs PostgresWriter in a kind cluster of its own on this machine, and deletes that cluster. It needs docker, kind,
# kubectl, git and openssl, and touches no other cluster: every command names the context kind-postgres-writer.
#
#   kind.sh up       create the cluster, install everything, apply the sample and show its row; run again to reinstall
#   kind.sh check    edit and delete the sample, and check that the row follows (CI runs it after up)
#   kind.sh down     delete the cluster
set -euo pipefail
cd "$(dirname "$0")/../.."

CLUSTER=postgres-writer
IMAGE=postgres-writer:kind

say() { printf '\n== %s\n' "$*"; }

die() {
    echo "kind.sh: $*" >&2
    exit 1
}

kube() { kubectl --context "kind-$CLUSTER" "$@"; }

# Takes back what was changed by hand since the last run, which would be a conflict otherwise.
apply() { kube apply --server-side --force-conflicts "$@"; }

psql() { kube -n database exec deploy/postgres -- psql -U postgres -v ON_ERROR_STOP=1 -At -c "$1"; }

# Creates a Secret unless it exists. The arguments after the name are those of kubectl create secret generic.
secret() {
    local namespace=$1 name=$2
    shift 2
    kube -n "$namespace" get secret "$name" >/dev/null 2>&1 || kube -n "$namespace" create secret generic "$name" "$@"
}

need() {
    local program
    for program in "$@"; do
        command -v "$program" >/dev/null || die "$program is not on PATH; make kind needs docker, kind, kubectl, git and openssl."
    done
}

create_cluster() {
    say "Cluster"
    kind get clusters 2>/dev/null | grep -qx "$CLUSTER" || kind create cluster --name "$CLUSTER" --wait 120s
    docker build -t "$IMAGE" .
    kind load docker-image "$IMAGE" --name "$CLUSTER"
}

install_metacontroller() {
    say "Metacontroller, with its flags"
    apply -k k8s/kind/metacontroller
    kube -n metacontroller rollout status statefulset/metacontroller --timeout=180s
}

install_database() {
    say "PostgreSQL, with the table of the sample"
    apply -f k8s/kind/postgres.yaml
    secret database postgres --from-literal=password="$(openssl rand -hex 16)"
    kube -n database rollout status deployment/postgres --timeout=180s
    psql "$(cat k8s/samples/*.sql)"
}

install_postgres_writer() {
    say "PostgresWriter"
    local password token
    apply -f k8s/base/namespace.yaml
    password=$(kube -n database get secret postgres -o go-template='{{.data.password | base64decode}}')
    secret postgres-writer postgres-writer-database --from-literal=host=postgres.database --from-literal=port=5432 \
        --from-literal=dbname=postgres --from-literal=user=postgres --from-literal=password="$password"
    token=$(openssl rand -hex 32)
    secret postgres-writer postgres-writer-hook-tokens --from-literal=tokens="$token" --from-literal=token="$token"
    apply -k k8s/kind
    # A rebuilt image has the same name.
    kube -n postgres-writer rollout restart deployment/postgres-writer
    kube -n postgres-writer rollout status deployment/postgres-writer --timeout=180s
}

show_sample() {
    say "The samples and their rows"
    kube apply -k k8s/samples
    kube wait --for=condition=Ready --timeout=120s postgreswriter/sample-student postgresrow/sample-tenant
    kube get postgreswriters,postgresrows -o wide
    psql 'SELECT * FROM students'
    psql 'SELECT * FROM tenants'
}

up() {
    need docker kind kubectl git openssl
    create_cluster
    install_metacontroller
    install_database
    install_postgres_writer
    show_sample
    say "Ready. Try: kubectl --context kind-$CLUSTER edit postgreswriter sample-student"
    echo "make kind-down deletes the cluster."
}

expect() {
    local found
    found=$(psql "$1")
    [ "$found" = "$2" ] || die "$1 returned '$found', expected '$2'"
}

check() {
    expect "SELECT name, age, country FROM students WHERE id = 'default/sample-student'" 'alex|23|canada'
    kube patch postgreswriter sample-student --type=merge -p '{"spec": {"age": 24}}'
    kube wait --for=jsonpath='{.status.conditions[?(@.type=="Ready")].observedGeneration}'=2 --timeout=60s \
        postgreswriter/sample-student
    expect "SELECT age FROM students WHERE id = 'default/sample-student'" 24
    kube delete postgreswriter sample-student --timeout=60s
    expect 'SELECT count(*) FROM students' 0
    say "The row was written, changed and deleted."
}

case "${1:-}" in
up | check) "$1" ;;
down) kind delete cluster --name "$CLUSTER" ;;
*) die "usage: kind.sh up | check | down" ;;
esac
