import base64
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from llmd_sandbox.kube import KubeApi, Object
from llmd_sandbox.kubelet import environment
from llmd_sandbox.kubelet.environment import Mounts, expand
from llmd_sandbox.kubelet.sources import ConfigError, Sources
from llmd_sandbox.site import MARKER, Site

Put = Callable[[str, Object], Object]


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)/x", "1/x"),
        ("$$(A)", "$(A)"),
        ("$(NONE)", "$(NONE)"),
        ("$A ${A} $", "$A ${A} $"),
        ("$$$(A)", "$1"),
    ],
)
def test_expand(text: str, expanded: str) -> None:
    assert expand(text, {"A": "1"}) == expanded


@pytest.mark.parametrize(
    ("text", "mapped"),
    [
        ("/config", "/real/c"),
        ("/config/a.yaml", "/real/c/a.yaml"),
        ("--file=/config/a.yaml", "--file=/real/c/a.yaml"),
        ("/bin:/config", "/bin:/real/c"),
        ("cat '/config/x'", "cat '/real/c/x'"),
        ("/config/sub/x", "/real/s/x"),
        ("/configuration/x", "/configuration/x"),
        ("/config.yaml", "/config.yaml"),
        ("/etc/config/x", "/etc/config/x"),
        ("http://host/config/x", "http://host/config/x"),
    ],
)
def test_mounts_are_mapped_only_where_they_start_a_path(text: str, mapped: str) -> None:
    assert Mounts({"/config": Path("/real/c"), "/config/sub": Path("/real/s")}).apply(text) == mapped


async def declared(container: Object, api: KubeApi, pod: Object) -> dict[str, str]:
    return await environment.declared(
        pod, container, Sources(api), ip="127.1.2.3", host_ip="127.1.0.2", allocatable={"memory": "15Gi"}
    )


async def test_values_from_everywhere(api: KubeApi, put: Put, make_pod: Callable[..., Object]) -> None:
    put("/api/v1/namespaces/ns/secrets/s", {"data": {"K": base64.b64encode(b"hidden").decode()}})
    put("/api/v1/namespaces/ns/configmaps/c", {"data": {"mode": "fast"}})
    container = {
        "name": "c",
        "resources": {"limits": {"cpu": "1500m"}},
        "envFrom": [{"prefix": "S_", "secretRef": {"name": "s"}}, {"configMapRef": {"name": "c"}}],
        "env": [
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "K"}}},
            {"name": "MODE", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "mode"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
            {
                "name": "MEM",
                "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Gi"}},
            },
            {"name": "URL", "value": "http://$(IP):8000/$(LATER)"},
            {"name": "LATER", "value": "x"},
            {"name": "NO", "valueFrom": {"secretKeyRef": {"name": "none", "key": "K", "optional": True}}},
        ],
    }
    assert await declared(container, api, make_pod(container)) == {
        "S_K": "hidden",
        "mode": "fast",
        "TOKEN": "hidden",
        "MODE": "fast",
        "IP": "127.1.2.3",
        "APP": "x",
        "CPU": "2",
        "MEM": "15",
        "URL": "http://127.1.2.3:8000/$(LATER)",
        "LATER": "x",
    }


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        ({"secretKeyRef": {"name": "none", "key": "K"}}, 'secret "none" not found'),
        ({"secretKeyRef": {"name": "s", "key": "K"}}, "couldn't find key K in Secret ns/s"),
        ({"configMapKeyRef": {"name": "none", "key": "K"}}, 'configmap "none" not found'),
        ({"configMapKeyRef": {"name": "c", "key": "K"}}, "couldn't find key K in ConfigMap ns/c"),
        ({"fieldRef": {"fieldPath": "spec.nope"}}, "unsupported fieldPath: spec.nope"),
    ],
)
async def test_missing_values_are_named_as_the_kubelet_names_them(
    origin: Object, message: str, api: KubeApi, put: Put, make_pod: Callable[..., Object]
) -> None:
    put("/api/v1/namespaces/ns/secrets/s", {"data": {}})
    put("/api/v1/namespaces/ns/configmaps/c", {"data": {}})
    container = {"name": "c", "env": [{"name": "X", "valueFrom": origin}]}
    with pytest.raises(ConfigError) as error:
        await declared(container, api, make_pod(container))
    assert str(error.value) == message


def test_nothing_of_the_supervisors_environment_leaks(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/admin")
    monkeypatch.setenv("HF_TOKEN", "secret")
    base = environment.base(site, "p", "127.1.2.3", Path("/pods/p"))
    assert "KUBECONFIG" not in base
    assert "HF_TOKEN" not in base
    assert base["HOME"] == "/pods/p" != os.environ.get("HOME")
    assert base[MARKER] == str(site.directory)
    assert base["LLMD_SANDBOX_POD_IP"] == "127.1.2.3"
    assert float(base["LLMD_SANDBOX_STARTUP_SCALE"]) == site.startup_scale
