"""A pod's volumes as folders."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from llmd_sandbox.kube import ApiStatus, KubeApi, Object, path
from llmd_sandbox.kubelet import downward
from llmd_sandbox.kubelet.environment import Mounts, expand
from llmd_sandbox.kubelet.sources import ConfigError, Sources

TOKEN_EXPIRY_S = 3607
"""What the ServiceAccount admission asks for; the API server stretches exactly this value to a year."""


class MountError(Exception):
    """A volume cannot be made (yet)."""

    def __init__(self, volume: str, reason: str) -> None:
        self.volume = volume
        super().__init__(f'MountVolume.SetUp failed for volume "{volume}" : {reason}')


class VolumeMaker:
    """Makes the volumes of one pod below its folder."""

    def __init__(
        self,
        api: KubeApi,
        sources: Sources,
        pod: Object,
        *,
        ip: str,
        host_ip: str,
        allocatable: Mapping[str, str],
    ) -> None:
        self._api, self._sources, self._pod = api, sources, pod
        self._ip, self._host_ip, self._allocatable = ip, host_ip, allocatable
        self._namespace = pod["metadata"]["namespace"]

    async def make(self, folder: Path) -> dict[str, Path]:
        """A folder for each volume, by the volume's name.

        Raises:
            MountError: a Secret, ConfigMap or key is missing, or the volume's kind is not served here.
        """
        made = {}
        for volume in self._pod["spec"].get("volumes") or []:
            place = folder / volume["name"]
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                if "emptyDir" not in volume:
                    self._write(place, await self._content(volume))
            except ConfigError as error:
                raise MountError(volume["name"], str(error)) from error
            except ApiStatus as status:
                raise MountError(volume["name"], status.message) from status
            made[volume["name"]] = place
        return made

    def _write(self, place: Path, content: Mapping[str, bytes]) -> None:
        for name, data in content.items():
            file = place / name
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            file.touch(mode=0o600)
            file.write_bytes(data)

    async def _content(self, volume: Object) -> dict[str, bytes]:
        if secret := volume.get("secret"):
            return await self._secret({**secret, "name": secret["secretName"]})
        if config_map := volume.get("configMap"):
            return await self._config_map(config_map)
        if downward_api := volume.get("downwardAPI"):
            return self._downward(downward_api)
        if projected := volume.get("projected"):
            content: dict[str, bytes] = {}
            for source in projected.get("sources") or []:
                content |= await self._projected(source)
            return content
        kind = next((word for word in volume if word != "name"), "unknown")
        raise ConfigError(f"this sandbox serves no volumes of kind {kind}")

    async def _projected(self, source: Object) -> dict[str, bytes]:
        if secret := source.get("secret"):
            return await self._secret(secret)
        if config_map := source.get("configMap"):
            return await self._config_map(config_map)
        if downward_api := source.get("downwardAPI"):
            return self._downward(downward_api)
        if token := source.get("serviceAccountToken"):
            return {token["path"]: (await self._token(token)).encode()}
        raise ConfigError(f"this sandbox projects no {', '.join(source)}")

    async def _secret(self, source: Object) -> dict[str, bytes]:
        optional = source.get("optional", False)
        data = await self._sources.secret(self._namespace, source["name"], optional=optional)
        return _items(data or {}, source.get("items"), "secret", optional=optional)

    async def _config_map(self, source: Object) -> dict[str, bytes]:
        optional = source.get("optional", False)
        data = await self._sources.config_map(self._namespace, source["name"], optional=optional)
        return _items(data or {}, source.get("items"), "config", optional=optional)

    def _downward(self, source: Object) -> dict[str, bytes]:
        content = {}
        for item in source.get("items") or []:
            if reference := item.get("fieldRef"):
                value = downward.field(self._pod, reference["fieldPath"], ip=self._ip, host_ip=self._host_ip)
            else:
                reference = item["resourceFieldRef"]
                owner = downward.container_named(self._pod, reference["containerName"])
                value = downward.resource(owner, reference, self._allocatable)
            content[item["path"]] = value.encode()
        return content

    async def _token(self, source: Object) -> str:
        meta = self._pod["metadata"]
        account = self._pod["spec"].get("serviceAccountName", "default")
        spec: Object = {
            "expirationSeconds": source.get("expirationSeconds", TOKEN_EXPIRY_S),
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]},
            "audiences": [source["audience"]] if source.get("audience") else [],
        }
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        answer = await self._api.create(path("v1", "serviceaccounts", self._namespace, account, "token"), request)
        token: str = answer["status"]["token"]
        return token


def mounts(container: Object, volumes: Mapping[str, Path], variables: Mapping[str, str]) -> Mounts:
    """The container's mount paths and the folders or files behind them."""
    real = {}
    for mount in container.get("volumeMounts") or []:
        place = volumes[mount["name"]]
        if sub_path := mount.get("subPath") or expand(mount.get("subPathExpr", ""), variables):
            place = place / sub_path
            if not place.exists():
                place.mkdir(parents=True, mode=0o700)
        real[mount["mountPath"].rstrip("/") or "/"] = place
    return Mounts(real)


def write_kubeconfig(pod: Object, volumes: Mapping[str, Path], server: str, file: Path) -> Path | None:
    """A kubeconfig with the pod's own token, mode 0600; None for a pod without a token of the API server."""
    for volume in pod["spec"].get("volumes") or []:
        sources = (volume.get("projected") or {}).get("sources") or []
        tokens = [s["serviceAccountToken"] for s in sources if "serviceAccountToken" in s]
        if not tokens or tokens[0].get("audience"):
            continue
        place = volumes[volume["name"]]
        cluster: Object = {"server": server}
        if (place / "ca.crt").exists():
            cluster["certificate-authority"] = str(place / "ca.crt")
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "sandbox", "cluster": cluster}],
            "users": [{"name": "pod", "user": {"token": (place / tokens[0]["path"]).read_text()}}],
            "contexts": [
                {
                    "name": "pod",
                    "context": {
                        "cluster": "sandbox",
                        "user": "pod",
                        "namespace": pod["metadata"]["namespace"],
                    },
                }
            ],
            "current-context": "pod",
        }
        file.touch(mode=0o600)
        file.write_text(yaml.safe_dump(config))
        return file
    return None


def remove(folder: Path) -> None:
    """Remove a pod's folder whole."""
    shutil.rmtree(folder, ignore_errors=True)


def _items(data: dict[str, bytes], items: Iterable[Object] | None, word: str, *, optional: bool) -> dict[str, bytes]:
    if items is None:
        return data
    chosen = {}
    for item in items:
        if item["key"] in data:
            chosen[item["path"]] = data[item["key"]]
        elif not optional:
            raise ConfigError(f"references non-existent {word} key: {item['key']}")
    return chosen
