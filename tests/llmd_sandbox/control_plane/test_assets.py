from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llmd_sandbox.control_plane import assets, versions

Program = Callable[[Path, str], None]


def test_nothing_is_found_on_an_empty_machine(machine: Path) -> None:
    assert assets.find() == {}
    assert assets.missing() == list(assets.NEEDED)


def test_assets_folder_serves_as_far_as_it_goes(
    machine: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(machine / "assets" / "etcd", "true")
    program(assets.cached("etcd"), "true")
    program(assets.cached("kube-scheduler"), "true")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(machine / "assets"))
    assert assets.find() == {
        "etcd": machine / "assets" / "etcd",
        "kube-scheduler": assets.cached("kube-scheduler"),
    }


def test_a_file_that_cannot_be_executed_is_no_program(machine: Path) -> None:
    assets.cached("etcd").parent.mkdir(parents=True)
    assets.cached("etcd").write_text("half a download")
    assert "etcd" in assets.missing()


@pytest.mark.parametrize(("said", "taken"), [("v3.12.0", True), ("v4.1.4", True), ("v3.11.9", False), ("", False)])
def test_helm_on_path_must_be_recent(machine: Path, program: Program, said: str, taken: bool) -> None:
    program(machine / "bin" / "helm", f"echo {said}")
    assert ("helm" in assets.find()) is taken


def test_a_client_that_fails_is_not_taken(machine: Path, program: Program) -> None:
    program(machine / "bin" / "kubectl", "echo v1.35.0; exit 1")
    assert "kubectl" in assets.missing()


def test_cached_clients_come_before_path_and_found_ones_after(machine: Path, program: Program) -> None:
    program(machine / "bin" / "kubectl", 'echo "gitVersion: v1.35.2"')
    program(assets.cached("helm"), "true")
    first, last = assets.client_folders(assets.find())
    assert first == [str(assets.cached("helm").parent)]
    assert last == [str(machine / "bin")]


def test_cache_is_kept_by_version(machine: Path) -> None:
    assert assets.cache() == machine / "cache" / "llmd-sandbox" / versions.KUBERNETES


@pytest.mark.parametrize(
    ("program_name", "said", "found"),
    [
        ("helm", "v3.12.0", ["helm3"]),
        ("helm", "v3.11.9", []),
        ("helm", "v4.0.1", ["helm4"]),
        ("helm", "v5.0.0", []),
        ("helmfile", "1.1.0", ["helmfile"]),
        ("helmfile", "0.171.0", []),
        ("helmfile", "(devel)", []),
    ],
)
def test_a_tool_on_path_is_taken_for_its_own_generation(
    machine: Path, program: Program, program_name: str, said: str, found: list[str]
) -> None:
    program(machine / "bin" / program_name, f"echo '{said}'")
    assert list(assets.find(assets.TOOLS)) == found


def test_both_generations_of_helm_have_folders_of_their_own(machine: Path) -> None:
    files = [assets.cached(name) for name in ("helm3", "helm4")]
    assert [file.name for file in files] == ["helm", "helm"]
    assert files[0].parent != files[1].parent


def test_tools_are_nothing_that_a_sandbox_needs() -> None:
    assert not set(assets.TOOLS) & set(assets.NEEDED)
