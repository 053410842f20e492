"""Tests of manifests, CRD, audit and procedures on a real kube-apiserver."""
