"""Secrets and ConfigMaps that pods take values from, and the news that one of them changed."""

from __future__ import annotations

import asyncio
import base64

from llmd_sandbox.kube import ApiStatus, KubeApi, Object, path


class ConfigError(Exception):
    """A container or volume asks for what does not exist (yet); the message is the kubelet's own wording."""


class Sources:
    """Reads Secrets and ConfigMaps from the API, and waits for changes.

    It reads the API and no cache: a Secret made just before the pod must be seen.
    """

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self.generation = 0
        self._news = asyncio.Event()

    def changed(self, _event: str, _item: Object) -> None:
        """Listener for the watches of Secrets and ConfigMaps."""
        self.generation += 1
        self._news.set()
        self._news = asyncio.Event()

    async def news_since(self, generation: int, timeout_s: float) -> None:
        """Return when anything changed since `generation`, or after `timeout_s`."""
        if self.generation == generation:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._news.wait()
            except TimeoutError:
                return

    async def secret(self, namespace: str, name: str, *, optional: bool = False) -> dict[str, bytes] | None:
        """The data of a Secret; None when it does not exist and need not.

        Raises:
            ConfigError: it does not exist.
        """
        found = await self._get("secrets", "secret", namespace, name, optional)
        if found is None:
            return None
        return {key: base64.b64decode(value) for key, value in (found.get("data") or {}).items()}

    async def config_map(self, namespace: str, name: str, *, optional: bool = False) -> dict[str, bytes] | None:
        """The data of a ConfigMap; None when it does not exist and need not.

        Raises:
            ConfigError: it does not exist.
        """
        found = await self._get("configmaps", "configmap", namespace, name, optional)
        if found is None:
            return None
        text = {key: value.encode() for key, value in (found.get("data") or {}).items()}
        return text | {key: base64.b64decode(value) for key, value in (found.get("binaryData") or {}).items()}

    async def _get(self, plural: str, word: str, namespace: str, name: str, optional: bool) -> Object | None:
        try:
            return await self._api.get(path("v1", plural, namespace, name))
        except ApiStatus as status:
            if status.code != 404:
                raise ConfigError(status.message) from status
            if optional:
                return None
            raise ConfigError(f'{word} "{name}" not found') from status
