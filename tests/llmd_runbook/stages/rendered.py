"""Manifests as the patterns' releases render them, small."""

from __future__ import annotations

from typing import Any

from llmd_runbook.clients.kubernetes import Object


def servers(name: str, model: str, labels: dict[str, str], *words: str, **spec: Any) -> Object:
    """A Deployment of model servers with one GPU."""
    reference = {"secretKeyRef": {"name": "huggingface-token", "key": "HF_TOKEN"}}
    container = {
        "name": "vllm",
        "command": ["vllm", "serve"],
        "args": [model, "--served-model-name", model, *words],
        "env": [{"name": "A", "value": "b"}, {"name": "HF_TOKEN", "valueFrom": reference}],
        "resources": {
            "limits": {"nvidia.com/gpu": "1", "memory": "8Gi"},
            "requests": {"nvidia.com/gpu": "1", "cpu": "2"},
        },
    }
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template, **spec},
    }


def pool(name: str, labels: dict[str, str]) -> Object:
    return {"kind": "InferencePool", "metadata": {"name": name}, "spec": {"selector": {"matchLabels": labels}}}


def policy(pool: str, kind: str = "InferencePool") -> Object:
    spec = {"targetRef": {"kind": kind, "name": pool}}
    return {"kind": "HealthCheckPolicy", "metadata": {"name": pool}, "spec": spec}


def gateway(name: str, of: str = "gke-l7-regional-external-managed", **meta: Any) -> Object:
    return {"kind": "Gateway", "metadata": {"name": name, **meta}, "spec": {"gatewayClassName": of}}


def route(name: str, **meta: Any) -> Object:
    return {"kind": "HTTPRoute", "metadata": {"name": name, **meta}, "spec": {}}
