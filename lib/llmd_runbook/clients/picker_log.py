"""The log of an endpoint picker's pods, followed through the Kubernetes API."""

from __future__ import annotations

from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Event, Thread

import urllib3

from llmd_runbook.analysis.picker_log_lines import PickerLines
from llmd_runbook.clients.kubernetes import PODS, Kubernetes
from llmd_runbook.errors import ClusterError

_OVERLAP_S = 5.0
"""Heard again where a stream was cut: the log's times are the node's, in whole seconds."""
_AGAIN_S = 1.0
_CHUNK_BYTES = 65_536


class PickerLog:
    """Everything the picker's pods log from the moment this is made; several pods' lines together. To be closed.

    A busy picker's log is large and is rotated away within a minute: what is read now and then has gaps, so it is
    followed, by a thread for each pod.

    Raises:
        ClusterError: a pod's log cannot be read, `get` on `pods/log` not being permitted for one.
    """

    def __init__(self, kube: Kubernetes, namespace: str, pods: list[str]) -> None:
        self._kube, self._namespace, self._pods = kube, namespace, list(pods)
        self._heard: SimpleQueue[list[str]] = SimpleQueue()
        self._closing = Event()
        self._streams: dict[str, urllib3.BaseHTTPResponse] = {}
        self._begun = self._runs()
        self.lines = PickerLines()
        for pod in self._begun:
            self._streams[pod] = self._follow(pod, 0.0)
        self._threads = [Thread(target=self._hear, args=(pod,), daemon=True) for pod in self._begun]
        for thread in self._threads:
            thread.start()

    def read(self) -> PickerLines:
        """Everything heard so far."""
        while True:
            try:
                self.lines.feed(self._heard.get_nowait())
            except Empty:
                return self.lines

    def restarted(self) -> bool:
        """Whether a picker began anew or went away meanwhile: its prefix index is empty then, and lines may be lost."""
        return self._runs() != self._begun

    def close(self) -> None:
        """Stop hearing; what was heard can still be read."""
        self._closing.set()
        for stream in list(self._streams.values()):
            with suppress(ValueError, RuntimeError):  # it has ended by itself
                stream.shutdown()
        for thread in self._threads:
            thread.join()

    def _hear(self, pod: str) -> None:
        """Until it is closed or the pod is gone; a stream that was cut is opened again."""
        while True:
            stream, rest = self._streams[pod], b""
            if self._closing.is_set():
                stream.close()
                return
            try:
                for chunk in stream.stream(_CHUNK_BYTES):
                    *lines, rest = (rest + chunk).split(b"\n")
                    self._heard.put([line.decode(errors="replace") for line in lines])
            except (urllib3.exceptions.HTTPError, OSError):
                pass  # cut, or silent for long
            finally:
                stream.close()
            if rest:
                self._heard.put([rest.decode(errors="replace")])
            if self._closing.wait(_AGAIN_S):
                return
            try:
                self._streams[pod] = self._follow(pod, _OVERLAP_S)
            except ClusterError:
                return  # gone: `restarted` says so

    def _follow(self, pod: str, since_s: float) -> urllib3.BaseHTTPResponse:
        return self._kube.follow(pod, self._namespace, self._begun[pod][0], since_s)

    def _runs(self) -> dict[str, tuple[str, str]]:
        """Pod -> its picker's container, and when that container was started."""
        found = {}
        for name in self._pods:
            pod = self._kube.find(PODS, name, self._namespace)
            if pod is None:
                continue
            container = str(pod["spec"]["containers"][0]["name"])
            statuses = pod.get("status", {}).get("containerStatuses", [])
            running = [item.get("state", {}).get("running", {}) for item in statuses if item["name"] == container]
            found[name] = (container, str(running[0].get("startedAt", "")) if running else "")
        return found
