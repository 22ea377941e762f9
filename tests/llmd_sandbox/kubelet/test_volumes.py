import base64
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmd_sandbox.kube import KubeApi, Object
from llmd_sandbox.kubelet import volumes
from llmd_sandbox.kubelet.sources import Sources

Put = Callable[[str, Object], Object]
MakePod = Callable[..., Object]
TOKEN_VOLUME: dict[str, Any] = {
    "name": "kube-api-access",
    "projected": {
        "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "ns", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
        ]
    },
}


async def make(api: KubeApi, pod: Object, folder: Path) -> dict[str, Path]:
    maker = volumes.VolumeMaker(api, Sources(api), pod, ip="127.1.2.3", host_ip="127.1.0.2", allocatable={})
    return await maker.make(folder)


async def test_volumes_become_folders(api: KubeApi, put: Put, make_pod: MakePod, tmp_path: Path) -> None:
    put("/api/v1/namespaces/ns/configmaps/c", {"data": {"a": "A", "b": "B"}})
    put("/api/v1/namespaces/ns/secrets/s", {"data": {"k": base64.b64encode(b"hidden").decode()}})
    pod = make_pod(
        volumes=[
            {"name": "empty", "emptyDir": {"sizeLimit": "1Gi"}},
            {"name": "all", "configMap": {"name": "c"}},
            {"name": "some", "configMap": {"name": "c", "items": [{"key": "b", "path": "dir/b.txt"}]}},
            {"name": "secret", "secret": {"secretName": "s"}},
            {"name": "optional", "secret": {"secretName": "none", "optional": True}},
        ]
    )
    made = await make(api, pod, tmp_path / "v")
    assert made["empty"].is_dir()
    assert {file.name: file.read_text() for file in made["all"].iterdir()} == {"a": "A", "b": "B"}
    assert [str(f.relative_to(made["some"])) for f in made["some"].rglob("*") if f.is_file()] == ["dir/b.txt"]
    assert (made["secret"] / "k").read_text() == "hidden"
    assert stat.S_IMODE((made["secret"] / "k").stat().st_mode) == 0o600
    assert not list(made["optional"].iterdir())


@pytest.mark.parametrize(
    ("volume", "reason"),
    [
        ({"secret": {"secretName": "none"}}, 'secret "none" not found'),
        ({"configMap": {"name": "none"}}, 'configmap "none" not found'),
        (
            {"configMap": {"name": "c", "items": [{"key": "z", "path": "z"}]}},
            "references non-existent config key: z",
        ),
        ({"hostPath": {"path": "/"}}, "this sandbox serves no volumes of kind hostPath"),
    ],
)
async def test_what_cannot_be_mounted_is_said(
    volume: Object, reason: str, api: KubeApi, put: Put, make_pod: MakePod, tmp_path: Path
) -> None:
    put("/api/v1/namespaces/ns/configmaps/c", {"data": {}})
    with pytest.raises(volumes.MountError) as error:
        await make(api, make_pod(volumes=[{"name": "v", **volume}]), tmp_path / "v")
    assert str(error.value) == f'MountVolume.SetUp failed for volume "v" : {reason}'


async def test_kubeconfig_holds_the_pods_own_token(api: KubeApi, put: Put, make_pod: MakePod, tmp_path: Path) -> None:
    put("/api/v1/namespaces/ns/configmaps/kube-root-ca.crt", {"data": {"ca.crt": "PEM"}})
    pod = make_pod(volumes=[TOKEN_VOLUME], serviceAccountName="picker")
    made = await make(api, pod, tmp_path / "v")
    file = volumes.write_kubeconfig(pod, made, "https://127.1.0.1:6443", tmp_path / "kubeconfig")
    assert file is not None
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    config = yaml.safe_load(file.read_text())
    assert config["users"][0]["user"]["token"] == "token-of-picker"
    cluster = config["clusters"][0]["cluster"]
    assert cluster["certificate-authority"] == str(made["kube-api-access"] / "ca.crt")
    assert (made["kube-api-access"] / "ca.crt").read_text() == "PEM"
    assert (made["kube-api-access"] / "ns").read_text() == "ns"


async def test_no_token_no_kubeconfig(make_pod: MakePod, tmp_path: Path) -> None:
    assert volumes.write_kubeconfig(make_pod(), {}, "https://127.1.0.1:6443", tmp_path / "kubeconfig") is None
    assert not (tmp_path / "kubeconfig").exists()


def test_mounts_with_sub_paths(tmp_path: Path) -> None:
    container: Object = {
        "volumeMounts": [
            {"name": "v", "mountPath": "/data/"},
            {"name": "v", "mountPath": "/sub", "subPath": "inner"},
            {"name": "v", "mountPath": "/named", "subPathExpr": "$(POD)"},
        ]
    }
    mounts = volumes.mounts(container, {"v": tmp_path}, {"POD": "p-1"})
    assert mounts.real == {"/data": tmp_path, "/sub": tmp_path / "inner", "/named": tmp_path / "p-1"}
    assert (tmp_path / "inner").is_dir()
