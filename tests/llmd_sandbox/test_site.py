from __future__ import annotations

from pathlib import Path

import pytest

from llmd_sandbox.site import Site, cache_root, state_root


def test_folders_follow_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMD_SANDBOX_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert state_root() == tmp_path / "state" / "llmd-sandbox"
    assert cache_root() == tmp_path / "cache" / "llmd-sandbox"


def test_folders_do_not_depend_on_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMD_SANDBOX_STATE", "state")
    monkeypatch.chdir(tmp_path)
    assert state_root() == tmp_path / "state" / "llmd-sandbox"


def test_without_variables_the_home_folder_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LLMD_SANDBOX_STATE", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_root() == tmp_path / ".local" / "state" / "llmd-sandbox"
    assert cache_root() == tmp_path / ".cache" / "llmd-sandbox"


def test_what_is_saved_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMD_SANDBOX_STATE", str(tmp_path))
    site = Site("one", 9, startup_scale=0.5)
    site.save()
    assert Site.load("one") == site
    with pytest.raises(FileNotFoundError):
        Site.load("two")


def test_no_two_addresses_of_two_sandboxes_meet() -> None:
    def addresses(site: Site) -> set[str]:
        fixed = [site.api_server, site.etcd, site.kubelet, site.gke, site.envoy_admin, site.guard_address]
        pods = [site.pod_ip(index) for index in range(50_000)]
        return {host for host, _ in fixed} | {site.gateway_ip(index) for index in range(100)} | set(pods)

    one, two = addresses(Site("one", 2)), addresses(Site("two", 3))
    assert len(one) == 50_000 + 100 + 5  # etcd and the API server share an address
    assert one.isdisjoint(two)
