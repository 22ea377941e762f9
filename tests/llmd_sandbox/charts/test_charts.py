"""What the charts render from `parameters/helm`, against the names and fields of upstream's charts."""

from __future__ import annotations

import os
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmd_sandbox.control_plane import assets

ROOT = Path(__file__).resolve().parents[3]
CHARTS = ROOT / "lib/llmd_sandbox/charts"
VALUES = ROOT / "parameters/helm"
RELEASES = {
    "infra": ("infra", ("infra.yaml",)),
    "infra-pattern3": ("infra", ("infra.yaml", "infra.sandbox.yaml")),
    "gaie-pattern1": ("inferencepool", ("gaie-pattern1.yaml",)),
    "gaie-pattern3": ("inferencepool", ("gaie-pattern3.yaml",)),
    "ms-pattern1": ("modelservice", ("ms-pattern1.yaml",)),
    "ms-pattern3": ("modelservice", ("ms-pattern3.yaml",)),
    "pattern1": ("llm-d-router-gateway", ("router-pattern1.yaml",)),
    "pattern3": ("llm-d-router-gateway", ("router-pattern3.yaml",)),
    "newest-pattern1": ("modelservice", ("ms-pattern1.newest.yaml",)),
    "newest-pattern3": ("modelservice", ("ms-pattern3.newest.yaml",)),
}
NEWEST = "llm-d-router-gateway"
EPP = "Deployment/gaie-pattern3-epp/spec/template/spec/containers/0"
ROUTER = "Deployment/pattern3-epp/spec/template/spec/containers/0"
VLLM1 = "Deployment/ms-pattern1-llm-d-modelservice-decode/spec/template/spec/containers/0"
VLLM3 = "Deployment/ms-pattern3-llm-d-modelservice-decode/spec/template/spec/containers/0"


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = assets.find().get("helm")
    if program is None:
        pytest.fail("no helm: put helm 3.12 or newer on PATH, or let the sandbox fetch it")
    environment = {name: os.environ[name] for name in ("HOME", "PATH")}
    return subprocess.run([str(program), *arguments], env=environment, capture_output=True, text=True, check=False)


@cache
def render(release: str, *settings: str, chart: str = "", name: str = "") -> dict[str, Any]:
    folder, files = RELEASES.get(release, (chart, ()))
    arguments = ["template", name or release, str(CHARTS / folder), "--namespace", "llm-d"]
    for file in files:
        arguments += ["--values", str(VALUES / file)]
    for setting in settings:
        arguments += ["--set", setting]
    result = helm(*arguments)
    assert result.returncode == 0, result.stderr
    documents = [document for document in yaml.safe_load_all(result.stdout) if document]
    return {f"{document['kind']}/{document['metadata']['name']}": document for document in documents}


def at(rendered: dict[str, Any], path: str) -> Any:
    """A field by `Kind/name/key/...`; numbers index lists, `~1` stands for a slash in a key."""
    kind, name, *keys = path.split("/")
    found: Any = rendered[f"{kind}/{name}"]
    for key in keys:
        found = found[int(key)] if isinstance(found, list) else found[key.replace("~1", "/")]
    return found


GKE_OBJECTS = {"HealthCheckPolicy/gaie-pattern3", "GCPBackendPolicy/gaie-pattern3"}
PICKER_OBJECTS = {
    f"{kind}/gaie-pattern3-epp"
    for kind in ("Deployment", "Service", "ConfigMap", "ServiceAccount", "Role", "RoleBinding")
}
MONITORING_OBJECTS = {
    "PodMonitoring/gaie-pattern3",
    "ServiceAccount/gaie-pattern3-metrics-reader-sa",
    "Secret/gaie-pattern3-metrics-reader-secret",
    "ClusterRole/llm-d-gaie-pattern3-metrics-reader",
    "ClusterRoleBinding/llm-d-gaie-pattern3-metrics-reader-role-binding",
    "Role/gaie-pattern3-metrics-reader-secret-read",
    "RoleBinding/gmp-system:collector:llm-d-gaie-pattern3-metrics-reader-secret-read",
}
METRICS_ACCESS = {"ClusterRole/gaie-pattern3-llm-d-epp", "ClusterRoleBinding/gaie-pattern3-llm-d-epp"}
POOL = {"InferencePool/gaie-pattern3"}
ROUTER_POOL = {"InferencePool/pattern3"}
ROUTER_PICKER = {
    *(f"{kind}/pattern3-epp" for kind in ("Deployment", "Service", "ConfigMap", "ServiceAccount")),
    *(f"{kind}/pattern3-epp-{part}" for kind in ("Role", "RoleBinding") for part in ("sa", "non-sa")),
}


@pytest.mark.parametrize(
    ("settings", "objects"),
    [
        ((), {"HealthCheckPolicy/pattern3", "GCPBackendPolicy/pattern3"}),
        (("provider.name=none",), set()),
    ],
)
def test_objects_of_the_router_chart(settings: tuple[str, ...], objects: set[str]) -> None:
    assert set(render("pattern3", *settings)) == ROUTER_POOL | ROUTER_PICKER | objects


@pytest.mark.parametrize(
    ("release", "settings", "objects"),
    [
        ("infra", (), {"Gateway/infra-inference-gateway"}),
        ("infra", ("gateway.enabled=false",), set()),
        ("infra-pattern3", (), {"Gateway/infra-pattern3-inference-gateway"}),
        ("gaie-pattern3", (), POOL | PICKER_OBJECTS | GKE_OBJECTS),
        ("gaie-pattern3", ("provider.name=none",), POOL | PICKER_OBJECTS),
        (
            "gaie-pattern3",
            ("inferenceExtension.monitoring.gke.enabled=true",),
            POOL | PICKER_OBJECTS | GKE_OBJECTS | MONITORING_OBJECTS,
        ),
        (
            "gaie-pattern3",
            ("inferenceExtension.monitoring.prometheus.enabled=true",),
            POOL | PICKER_OBJECTS | GKE_OBJECTS | MONITORING_OBJECTS | METRICS_ACCESS,
        ),
        (
            "ms-pattern3",
            (),
            {
                "Deployment/ms-pattern3-llm-d-modelservice-decode",
                "ServiceAccount/ms-pattern3-llm-d-modelservice",
            },
        ),
        (
            "ms-pattern3",
            ("decode.monitoring.podmonitor.enabled=true", "serviceAccountOverride=default"),
            {
                "Deployment/ms-pattern3-llm-d-modelservice-decode",
                "PodMonitor/ms-pattern3-llm-d-modelservice-decode-podmonitor",
            },
        ),
    ],
)
def test_objects(release: str, settings: tuple[str, ...], objects: set[str]) -> None:
    assert set(render(release, *settings)) == objects


@pytest.mark.parametrize(
    ("release", "path", "expected"),
    [
        ("infra", "Gateway/infra-inference-gateway/apiVersion", "gateway.networking.k8s.io/v1"),
        (
            "infra",
            "Gateway/infra-inference-gateway/spec/gatewayClassName",
            "gke-l7-regional-external-managed",
        ),
        (
            "infra",
            "Gateway/infra-inference-gateway/spec/listeners",
            [
                {
                    "name": "default",
                    "port": 80,
                    "protocol": "HTTP",
                    "allowedRoutes": {"namespaces": {"from": "All"}},
                }
            ],
        ),
        ("infra-pattern3", "Gateway/infra-pattern3-inference-gateway/spec/listeners/0/port", 8080),
        ("gaie-pattern3", "InferencePool/gaie-pattern3/apiVersion", "inference.networking.k8s.io/v1"),
        (
            "gaie-pattern3",
            "InferencePool/gaie-pattern3/spec",
            {
                "targetPorts": [{"number": 8000}],
                "selector": {
                    "matchLabels": {
                        "llm-d.ai/inferenceServing": "true",
                        "llm-d.ai/model": "Qwen2.5-3B-Instruct",
                    }
                },
                "endpointPickerRef": {"name": "gaie-pattern3-epp", "port": {"number": 9002}},
            },
        ),
        ("gaie-pattern3", "Deployment/gaie-pattern3-epp/spec/strategy/type", "Recreate"),
        ("gaie-pattern3", "Deployment/gaie-pattern3-epp/spec/replicas", 1),
        (
            "gaie-pattern3",
            "Deployment/gaie-pattern3-epp/spec/selector/matchLabels",
            {"inferencepool": "gaie-pattern3-epp"},
        ),
        (
            "gaie-pattern3",
            "Deployment/gaie-pattern3-epp/metadata/labels/app.kubernetes.io~1name",
            "gaie-pattern3-epp",
        ),
        (
            "gaie-pattern3",
            "Deployment/gaie-pattern3-epp/spec/template/metadata/labels",
            {"inferencepool": "gaie-pattern3-epp"},
        ),
        ("gaie-pattern3", f"{EPP}/name", "epp"),
        ("gaie-pattern3", f"{EPP}/image", "ghcr.io/llm-d/llm-d-inference-scheduler:v0.4.0"),
        (
            "gaie-pattern3",
            f"{EPP}/args",
            [
                *("--pool-name", "gaie-pattern3", "--pool-namespace", "llm-d"),
                *("--pool-group", "inference.networking.k8s.io", "--zap-encoder", "json"),
                *("--config-file", "/config/default-plugins.yaml"),
                *("--kv-cache-usage-percentage-metric", "vllm:kv_cache_usage_perc", "--v", "4"),
                *("--tracing=false", "--metrics-endpoint-auth=false"),
            ],
        ),
        (
            "gaie-pattern3",
            f"{EPP}/ports",
            [
                {"name": "grpc", "containerPort": 9002},
                {"name": "grpc-health", "containerPort": 9003},
                {"name": "metrics", "containerPort": 9090},
            ],
        ),
        (
            "gaie-pattern3",
            f"{EPP}/readinessProbe/grpc",
            {"port": 9003, "service": "inference-extension"},
        ),
        ("gaie-pattern3", f"{EPP}/volumeMounts/0/mountPath", "/config"),
        ("gaie-pattern3", "Service/gaie-pattern3-epp/spec/type", "ClusterIP"),
        (
            "gaie-pattern3",
            "Service/gaie-pattern3-epp/spec/ports",
            [
                {"name": "grpc-ext-proc", "protocol": "TCP", "port": 9002},
                {"name": "http-metrics", "protocol": "TCP", "port": 9090},
            ],
        ),
        (
            "gaie-pattern3",
            "HealthCheckPolicy/gaie-pattern3/spec",
            {
                "targetRef": {
                    "group": "inference.networking.k8s.io",
                    "kind": "InferencePool",
                    "name": "gaie-pattern3",
                },
                "default": {
                    "checkIntervalSec": 2,
                    "timeoutSec": 2,
                    "config": {"type": "HTTP", "httpHealthCheck": {"requestPath": "/health", "port": 8000}},
                },
            },
        ),
        (
            "gaie-pattern3",
            "GCPBackendPolicy/gaie-pattern3/spec/default",
            {"timeoutSec": 300, "logging": {"enabled": True}},
        ),
        ("ms-pattern1", "Deployment/ms-pattern1-llm-d-modelservice-decode/spec/replicas", 1),
        ("ms-pattern3", "Deployment/ms-pattern3-llm-d-modelservice-decode/spec/replicas", 3),
        (
            "ms-pattern3",
            "Deployment/ms-pattern3-llm-d-modelservice-decode/spec/selector/matchLabels",
            {
                "llm-d.ai/inferenceServing": "true",
                "llm-d.ai/model": "Qwen2.5-3B-Instruct",
                "llm-d.ai/role": "decode",
            },
        ),
        (
            "ms-pattern3",
            "Deployment/ms-pattern3-llm-d-modelservice-decode/spec/template/spec/volumes/2",
            {"name": "model-storage", "emptyDir": {"sizeLimit": "20Gi"}},
        ),
        ("ms-pattern3", f"{VLLM3}/name", "vllm"),
        ("ms-pattern3", f"{VLLM3}/image", "ghcr.io/llm-d/llm-d-cuda:v0.4.0"),
        ("ms-pattern3", f"{VLLM3}/command", ["vllm", "serve"]),
        (
            "ms-pattern1",
            f"{VLLM1}/args",
            [
                *("google/gemma-2b-it", "--port", "8000", "--served-model-name", "google/gemma-2b-it"),
                *("--disable-uvicorn-access-log", "--max-model-len=4096", "--gpu-memory-utilization=0.85"),
                *("--dtype", "half"),
            ],
        ),
        (
            "ms-pattern3",
            f"{VLLM3}/args",
            [
                *("Qwen/Qwen2.5-3B-Instruct", "--port", "8000"),
                *("--served-model-name", "Qwen/Qwen2.5-3B-Instruct"),
                *("--disable-uvicorn-access-log", "--max-model-len=2048", "--gpu-memory-utilization=0.75"),
                *("--enable-prefix-caching", "--enable-prompt-tokens-details", "--dtype", "half"),
            ],
        ),
        (
            "ms-pattern3",
            f"{VLLM3}/env/4",
            {
                "name": "HF_TOKEN",
                "valueFrom": {"secretKeyRef": {"name": "huggingface-token", "key": "HF_TOKEN"}},
            },
        ),
        ("ms-pattern3", f"{VLLM3}/env/3", {"name": "HF_HOME", "value": "/model-cache"}),
        (
            "ms-pattern3",
            f"{VLLM3}/volumeMounts",
            [
                {"name": "metrics-volume", "mountPath": "/.config"},
                {"name": "torch-compile-cache", "mountPath": "/.cache"},
                {"name": "model-storage", "mountPath": "/model-cache"},
            ],
        ),
        ("gaie-pattern3", "HealthCheckPolicy/gaie-pattern3/apiVersion", "networking.gke.io/v1"),
        ("gaie-pattern3", "GCPBackendPolicy/gaie-pattern3/apiVersion", "networking.gke.io/v1"),
        (
            "gaie-pattern3",
            "GCPBackendPolicy/gaie-pattern3/spec/targetRef",
            {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "gaie-pattern3"},
        ),
        ("gaie-pattern3", "Service/gaie-pattern3-epp/spec/selector", {"inferencepool": "gaie-pattern3-epp"}),
        (
            "gaie-pattern3",
            "Deployment/gaie-pattern3-epp/spec/template/spec/volumes",
            [{"name": "plugins-config-volume", "configMap": {"name": "gaie-pattern3-epp"}}],
        ),
        ("ms-pattern3", f"{VLLM3}/ports", [{"name": "vllm", "containerPort": 8000, "protocol": "TCP"}]),
        ("ms-pattern3", f"{VLLM3}/resources/limits", {"nvidia.com/gpu": "1"}),
        ("ms-pattern3", f"{VLLM3}/startupProbe/httpGet", {"path": "/v1/models", "port": "vllm"}),
        ("ms-pattern3", f"{VLLM3}/startupProbe/failureThreshold", 60),
        ("ms-pattern3", f"{VLLM3}/livenessProbe/httpGet/path", "/health"),
        ("ms-pattern3", f"{VLLM3}/readinessProbe/httpGet/path", "/v1/models"),
        (
            "pattern3",
            "InferencePool/pattern3/spec",
            {
                "targetPorts": [{"number": 8000}],
                "appProtocol": "http",
                "selector": {
                    "matchLabels": {"llm-d.ai/guide": "optimized-baseline", "llm-d.ai/model": "Qwen2.5-3B-Instruct"}
                },
                "endpointPickerRef": {"name": "pattern3-epp", "port": {"number": 9002}, "failureMode": "FailOpen"},
            },
        ),
        (
            "pattern3",
            "Deployment/pattern3-epp/spec/selector/matchLabels",
            {"llm-d-router-gateway": "pattern3-epp"},
        ),
        ("pattern3", "Deployment/pattern3-epp/spec/strategy/type", "Recreate"),
        ("pattern3", f"{ROUTER}/image", "ghcr.io/llm-d/llm-d-router-endpoint-picker:v0.10.0"),
        (
            "pattern3",
            f"{ROUTER}/args",
            [
                *("--pool-name", "pattern3", "--pool-namespace", "llm-d"),
                *("--pool-group", "inference.networking.k8s.io", "--zap-encoder", "json"),
                *("--config-file", "/config/optimized-baseline-plugins.yaml", "--grpc-health-port", "9003"),
                *("--v=4", "--tracing=false", "--metrics-endpoint-auth=false"),
            ],
        ),
        ("pattern3", f"{ROUTER}/resources/requests", {"cpu": "500m", "memory": "1Gi"}),
        ("pattern3", "Service/pattern3-epp/spec/selector", {"llm-d-router-gateway": "pattern3-epp"}),
        (
            "pattern3",
            "HealthCheckPolicy/pattern3/spec/default/config/httpHealthCheck",
            {"requestPath": "/health", "port": 8000},
        ),
        (
            "newest-pattern3",
            "Deployment/pattern3-nvidia-gpu-vllm-decode/spec/selector/matchLabels",
            {
                "llm-d.ai/guide": "optimized-baseline",
                "llm-d.ai/model": "Qwen2.5-3B-Instruct",
                "llm-d.ai/role": "decode",
            },
        ),
        (
            "newest-pattern3",
            "Deployment/pattern3-nvidia-gpu-vllm-decode/spec/template/spec/containers/0/image",
            "docker.io/vllm/vllm-openai:v0.23.0",
        ),
    ],
)
def test_fields(release: str, path: str, expected: object) -> None:
    assert at(render(release), path) == expected


@pytest.mark.parametrize("release", ["gaie-pattern1", "gaie-pattern3"])
def test_picker_weights(release: str) -> None:
    text = at(render(release), f"ConfigMap/{release}-epp/data/default-plugins.yaml")
    config = yaml.safe_load(text)
    assert config["kind"] == "EndpointPickerConfig"
    assert {entry["pluginRef"]: entry["weight"] for entry in config["schedulingProfiles"][0]["plugins"]} == {
        "prefix-cache-scorer": 3,
        "kv-cache-utilization-scorer": 2,
        "queue-scorer": 2,
    }


@pytest.mark.parametrize("release", ["gaie-pattern1", "gaie-pattern3"])
def test_picker_config_is_one_that_the_picker_of_this_chart_takes(release: str) -> None:
    """v0.4's: its own API version, whole numbers as weights, one profile, no handler and no picker of its own."""
    config = yaml.safe_load(at(render(release), f"ConfigMap/{release}-epp/data/default-plugins.yaml"))
    assert config["apiVersion"] == "inference.networking.x-k8s.io/v1alpha1"
    assert set(config) == {"apiVersion", "kind", "plugins", "schedulingProfiles"}
    (profile,) = config["schedulingProfiles"]
    assert set(profile) == {"name", "plugins"}
    assert [type(entry["weight"]) for entry in profile["plugins"]] == [int] * 3
    named = {plugin.get("name", plugin["type"]) for plugin in config["plugins"]}
    assert {entry["pluginRef"] for entry in profile["plugins"]} == named
    assert named == {"queue-scorer", "kv-cache-utilization-scorer", "prefix-cache-scorer"}


@pytest.mark.parametrize("release", ["pattern1", "pattern3"])
def test_the_newest_pickers_configurations(release: str) -> None:
    """The chart's own, and the one in use: the same weights, and the newest scorer of cold requests."""
    data = render(release)[f"ConfigMap/{release}-epp"]["data"]
    assert set(data) == {"default-plugins.yaml", "optimized-baseline-plugins.yaml"}
    for text, more in zip((data[name] for name in sorted(data)), ({}, {"no-hit-lru-scorer": 2}), strict=True):
        config = yaml.safe_load(text)
        assert config["apiVersion"] == "llm-d.ai/v1alpha1"
        weights = {entry["pluginRef"]: entry["weight"] for entry in config["schedulingProfiles"][0]["plugins"]}
        assert weights == {"prefix-cache-scorer": 3, "kv-cache-utilization-scorer": 2, "queue-scorer": 2} | more


def test_each_newest_pool_selects_its_own_pods_only() -> None:
    pods = {
        pattern: at(
            render(f"newest-{pattern}"),
            f"Deployment/{pattern}-nvidia-gpu-vllm-decode/spec/template/metadata/labels",
        )
        for pattern in ("pattern1", "pattern3")
    }
    for pattern in pods:
        selector = at(render(pattern), f"InferencePool/{pattern}/spec/selector/matchLabels")
        assert {name for name, labels in pods.items() if selector.items() <= labels.items()} == {pattern}


def test_model_servers_have_one_container_and_none_before_it() -> None:
    """With the routing proxy off the chart renders neither a sidecar nor an init container."""
    pod = at(render("ms-pattern3"), "Deployment/ms-pattern3-llm-d-modelservice-decode/spec/template/spec")
    assert [container["name"] for container in pod["containers"]] == ["vllm"]
    assert not pod.get("initContainers")
    assert not pod.get("tolerations")


def test_a_release_without_labels_has_the_charts_own() -> None:
    labels = at(
        render("one", chart="modelservice"),
        "Deployment/one-llm-d-modelservice-decode/spec/template/metadata/labels",
    )
    expected = {"inferenceServing": "true", "model": "random_model", "role": "decode"}
    assert labels == {f"llm-d.ai/{key}": value for key, value in expected.items()}


@pytest.mark.parametrize("setting", ["inferenceExtension.resources", "inferencePool.failureMode"])
def test_what_this_charts_version_does_not_have_is_not_rendered(setting: str) -> None:
    """No resource requests, which fits small nodes; no failure mode, so the API's default FailClose holds."""
    rendered = render("gaie-pattern3")
    assert "resources" not in at(rendered, EPP)
    assert "failureMode" not in at(rendered, "InferencePool/gaie-pattern3/spec/endpointPickerRef")
    result = helm("template", "x", str(CHARTS / "inferencepool"), "--set", f"{setting}=x")
    assert result.returncode != 0


def test_own_picker_config_is_added() -> None:
    rendered = render("gaie-pattern3", "inferenceExtension.pluginsCustomConfig.mine\\.yaml=kind: X")
    data = rendered["ConfigMap/gaie-pattern3-epp"]["data"]
    assert set(data) == {"default-plugins.yaml", "mine.yaml"}


def test_each_pool_selects_its_own_pods_only() -> None:
    pods = {
        pattern: at(
            render(f"ms-{pattern}"),
            f"Deployment/ms-{pattern}-llm-d-modelservice-decode/spec/template/metadata/labels",
        )
        for pattern in ("pattern1", "pattern3")
    }
    for pattern in pods:
        selector = at(render(f"gaie-{pattern}"), f"InferencePool/gaie-{pattern}/spec/selector/matchLabels")
        selected = {name for name, labels in pods.items() if selector.items() <= labels.items()}
        assert selected == {pattern}


def test_releases_without_labels_share_a_selector() -> None:
    """Upstream's trap: two such releases in one namespace fight over each other's pods."""
    selectors = [
        at(
            render(name, chart="modelservice"),
            f"Deployment/{name}-llm-d-modelservice-decode/spec/selector/matchLabels",
        )
        for name in ("one", "two")
    ]
    assert selectors[0] == selectors[1]


@pytest.mark.parametrize(
    ("release", "name", "expected"),
    [
        ("ms-pattern3", "m" * 53, "Deployment/" + f"{'m' * 53}-l" + "-decode"),
        ("ms-pattern3", "my-llm-d-modelservice", "Deployment/my-llm-d-modelservice-decode"),
        ("gaie-pattern3", "g" * 53, "Deployment/" + "g" * 40 + "-epp"),
        ("infra", "i" * 53, "Gateway/" + "i" * 53 + "-inference"),
    ],
)
def test_long_names_are_cut_as_upstream_cuts_them(release: str, name: str, expected: str) -> None:
    assert expected in render(release, name=name)


@pytest.mark.parametrize(
    ("release", "setting", "key"),
    [
        ("infra", "gatewayClassName=x", "gatewayClassName"),
        ("infra", "gateway.gatewayClassName=istio", "/gateway/gatewayClassName"),
        ("gaie-pattern3", "inferencePool.modelServers=null", "modelServers"),
        ("gaie-pattern3", "inferenceExtension.replicas=2", "/inferenceExtension/replicas"),
        ("gaie-pattern3", "inferenceExtension.resources.cpu=1", "resources"),
        ("gaie-pattern3", "provider.name=istio", "/provider/name"),
        (
            "gaie-pattern3",
            "provider.name=none,inferenceExtension.monitoring.prometheus.enabled=true",
            "prometheus.enabled",
        ),
        ("ms-pattern3", "routing.proxy.enabled=true", "/routing/proxy/enabled"),
        ("ms-pattern3", "prefill.create=true", "/prefill/create"),
        ("ms-pattern3", "modelArtifacts.uri=pvc://claim/path", "/modelArtifacts/uri"),
        ("ms-pattern3", "decode.replica=3", "replica"),
        ("pattern3", "router.modelServers.matchLabels=null", "matchLabels"),
        ("pattern3", "router.epp.replicas=2", "/router/epp/replicas"),
        ("pattern3", "router.proxy.enabled=true", "proxy"),
        ("pattern3", "httpRoute.create=true", "/httpRoute/create"),
        ("pattern3", "provider.name=istio", "/provider/name"),
    ],
)
def test_a_value_that_is_not_rendered_is_refused(release: str, setting: str, key: str) -> None:
    chart, files = RELEASES[release]
    values = [word for file in files for word in ("--values", str(VALUES / file))]
    result = helm("template", release, str(CHARTS / chart), *values, "--set", setting)
    assert result.returncode != 0
    assert key in result.stderr


@pytest.mark.parametrize("release", RELEASES)
def test_lint(release: str) -> None:
    chart, files = RELEASES[release]
    values = [word for file in files for word in ("--values", str(VALUES / file))]
    result = helm("lint", str(CHARTS / chart), *values)
    assert result.returncode == 0, result.stdout + result.stderr


def test_helmfile_pins_what_the_charts_stand_in_for() -> None:
    text = (VALUES / "helmfile.yaml.gotmpl").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"chart: {{ \.Values\.charts\.(\S+) }}\n\s+version: (\S+)", text))
    for environment in ("gke", "sandbox"):
        names = yaml.safe_load((VALUES / f"charts.{environment}.yaml").read_text(encoding="utf-8"))["charts"]
        assert set(names) == set(pinned)
    upstream = yaml.safe_load((VALUES / "charts.gke.yaml").read_text(encoding="utf-8"))["charts"]
    versions = {upstream[key].rsplit("/", 1)[1]: version for key, version in pinned.items()}
    charts = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in CHARTS.glob("*/Chart.yaml")]
    (newest,) = (chart for chart in charts if chart["name"] == NEWEST)  # the newest layout has no helmfile
    charts.remove(newest)
    for pattern in (1, 3):
        said = (VALUES / f"router-pattern{pattern}.yaml").read_text(encoding="utf-8").splitlines()[0]
        assert said.endswith(f"upstream chart {NEWEST} {newest['version'].removesuffix('+sandbox')}.")
    assert versions == {chart["name"]: chart["version"].removesuffix("+sandbox") for chart in charts}


def test_the_sandboxs_environment_names_charts_and_values_that_exist() -> None:
    found = yaml.safe_load((VALUES / "charts.sandbox.yaml").read_text(encoding="utf-8"))
    assert all((VALUES / chart / "Chart.yaml").is_file() for chart in found["charts"].values())
    assert all((VALUES / file).is_file() for file in found["infraValues"])
    assert found["repositories"] == []


@pytest.mark.parametrize("postfix", ["pattern1", "pattern3"])
def test_helmfile_names_values_files_that_exist(postfix: str) -> None:
    text = (VALUES / "helmfile.yaml.gotmpl").read_text(encoding="utf-8")
    files = re.findall(r"^      - (.+\.yaml)$", text, re.MULTILINE)
    names = [file.replace("{{ $postfix }}", postfix) for file in files]
    names += yaml.safe_load((VALUES / "charts.gke.yaml").read_text(encoding="utf-8"))["infraValues"]
    assert len(names) == 5
    assert all((VALUES / name).is_file() for name in names)
