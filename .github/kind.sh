#!/usr/bin/env bash
# Installs PostgresWriter and a PostgreSQL on the cluster of the current context, where Metacontroller runs, and goes
# through the life of one resource. The argument is the image, which the nodes must have.
set -euo pipefail
image=${1:?the image to install}
cd "$(dirname "$0")/.."

psql() { kubectl -n database exec deploy/postgres -- psql -U postgres -At -c "$1"; }

kubectl create namespace database
kubectl -n database create deployment postgres --image=postgres:17
kubectl -n database set env deployment/postgres POSTGRES_PASSWORD=only-for-this-test
kubectl -n database expose deployment postgres --port=5432
kubectl -n database rollout status deployment/postgres --timeout=180s
until psql 'SELECT 1' >/dev/null 2>&1; do sleep 1; done
psql "$(cat k8s/samples/students.sql)"

kubectl create namespace postgres-writer --dry-run=client -o yaml | kubectl apply -f -
kubectl -n postgres-writer create secret generic postgres-writer-database \
  --from-literal=host=postgres.database --from-literal=port=5432 --from-literal=dbname=postgres \
  --from-literal=user=postgres --from-literal=password=only-for-this-test
token=$(openssl rand -hex 32)
kubectl -n postgres-writer create secret generic postgres-writer-hook-tokens \
  --from-literal=token="$token" --from-literal=tokens="$token"

overlay=$(mktemp -d -p .)
trap 'rm -rf "$overlay"' EXIT
cat >"$overlay/kustomization.yaml" <<YAML
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../k8s]
images:
- {name: postgres-writer, newName: "${image%:*}", newTag: "${image##*:}"}
YAML
kubectl apply --server-side -k "$overlay"
kubectl -n postgres-writer rollout status deployment/postgres-writer --timeout=180s

kubectl apply -f k8s/samples/sample-student.yaml
kubectl wait --for=condition=Ready --timeout=60s pgw/sample-student
kubectl get pgw -o wide
test "$(psql "SELECT name, age, country FROM students WHERE id = 'default/sample-student'")" = 'alex|23|canada'
kubectl patch pgw sample-student --type=merge -p '{"spec":{"age":24}}'
kubectl wait --for=jsonpath='{.status.observedGeneration}'=2 --timeout=60s pgw/sample-student
test "$(psql "SELECT age FROM students WHERE id = 'default/sample-student'")" = 24
kubectl delete pgw sample-student --timeout=60s
test "$(psql 'SELECT count(*) FROM students')" = 0
echo "1 passed, 0 failed"
