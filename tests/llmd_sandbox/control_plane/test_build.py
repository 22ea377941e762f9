from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import filelock
import pytest

from llmd_sandbox.control_plane import assets, build, go, versions, wheels
from llmd_sandbox.errors import SandboxError
from tests.llmd_sandbox.told import Told

Program = Callable[[Path, str], None]

FAKE_GO = """
case "$1" in
env) echo go1.99.0 ;;
list) echo "go: downloading $3" >&2; printf 'one\\ntwo\\n' ;;
mod) mkdir -p "{root}/module/config/crd/standard"; touch "{root}/module/config/crd/standard/kinds.yaml"
     echo '{{"Dir": "{root}/module"}}' ;;
build) echo "$7" >> "{root}/built"
     while [ "$1" != -o ]; do shift; done
     if [ -e "{root}/fail" ] && [[ "$2" == *scheduler* ]]; then echo "signal: killed" >&2; exit 1; fi
     echo compiled >&2; cp "{root}/bin/go" "$2" ;;
esac
"""


@pytest.fixture(autouse=True)
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(wheel: versions.Wheel, folder: Path) -> Path:
        raise SandboxError(f"pip could not download {wheel.project}=={wheel.version}.")

    monkeypatch.setattr(wheels, "download", refuse)


@pytest.fixture
def with_go(machine: Path, program: Program) -> Path:
    program(machine / "bin" / "go", FAKE_GO.format(root=machine))
    program(machine / "bin" / "kubectl", "echo v1.36.0")
    program(machine / "bin" / "helm", "echo v3.20.0")
    return machine


def test_everything_is_built_and_the_work_folder_goes(with_go: Path) -> None:
    told = Told()
    build.ensure(told)
    assert assets.missing() == []
    assert (assets.cached(assets.GATEWAY_CRDS) / "kinds.yaml").is_file()
    assert not (assets.cache() / "work").exists()
    assert ("compiling kube-apiserver", 2) in told.steps
    assert "compiled" in told.details


def test_the_reader_hears_reason_size_and_time(with_go: Path) -> None:
    told = Told()
    build.ensure(told)
    text = " ".join(told.lines)
    assert "real Kubernetes servers" in text
    assert "0.6 GB" in text
    assert "5 minutes" in text


def test_nothing_is_done_when_nothing_is_missing(with_go: Path) -> None:
    build.ensure(Told())
    (with_go / "built").unlink()
    told = Told()
    build.ensure(told)
    assert not (with_go / "built").exists()
    assert told.lines == []


def test_a_build_is_taken_up_again_where_it_ended(with_go: Path) -> None:
    (with_go / "fail").touch()
    with pytest.raises(SandboxError, match="exit status 1") as caught:
        build.ensure(Told())
    assert caught.value.reason == "signal: killed"
    assert "kube-apiserver" in assets.find()
    assert "kube-scheduler" not in assets.find()
    assert (assets.cache() / "work" / "sources").is_dir()
    (with_go / "fail").unlink()
    (with_go / "built").unlink()
    told = Told()
    build.ensure(told)
    assert [title for title, _ in told.steps if title.startswith("compiling")] == ["compiling kube-scheduler"]
    assert assets.missing() == []


def test_operators_tools_are_built_only_when_asked_for(with_go: Path) -> None:
    build.ensure(Told())
    assert assets.missing(assets.TOOLS) == ["helm4", "helmfile"]  # the machine's own helm is of version 3
    told = Told()
    build.ensure(told, (*assets.NEEDED, *assets.TOOLS))
    assert assets.missing(assets.TOOLS) == []
    assert [title for title, _ in told.steps if title.startswith("compiling")] == [
        "compiling helm4",
        "compiling helmfile",
    ]
    text = " ".join(told.lines)
    assert "make test-cli" in text
    assert "real Kubernetes servers" not in text


def test_tools_that_cannot_be_had_are_named_with_what_to_do(machine: Path, program: Program) -> None:
    program(machine / "bin" / "go", 'case "$1" in env) echo go1.99.0;; *) echo "no route" >&2; exit 1;; esac')
    with pytest.raises(SandboxError, match=r"Missing: helm3, helm4, helmfile\.") as caught:
        build.ensure(Told(), assets.TOOLS)
    assert "no route" in str(caught.value.reason)
    assert "put them on PATH" in str(caught.value.remedy)
    assert "KUBEBUILDER_ASSETS" not in str(caught.value.remedy)


@pytest.mark.parametrize("name", assets.TOOLS)
def test_pins_of_tools_and_of_their_modules_agree(name: str) -> None:
    tool = versions.TOOLS[name]
    module = tool.package.removesuffix("/cmd/helm")
    assert f"{module} {tool.version}" in (go.TOOLS / name / "go.mod").read_text()
    assert any(stamp.endswith(f"={tool.version}") for stamp in tool.stamps)


def test_without_a_network_one_message_says_all_that_is_missing(machine: Path, program: Program) -> None:
    program(
        machine / "bin" / "go",
        'case "$1" in env) echo go1.99.0;; *) echo "dial tcp: connection refused" >&2; exit 1;; esac',
    )
    with pytest.raises(SandboxError) as caught:
        build.ensure(Told())
    message = str(caught.value)
    for name in assets.NEEDED:
        assert name in caught.value.what
    for remedy in ("GOPROXY", "KUBEBUILDER_ASSETS", "PIP_INDEX_URL", "PATH"):
        assert remedy in message
    assert "connection refused" in message
    assert message.count("module kubernetes") == 1


def test_without_go_the_message_names_go(machine: Path, program: Program) -> None:
    program(machine / "bin" / "go", "echo go1.20.1")
    with pytest.raises(SandboxError, match="etcd") as caught:
        build.ensure(Told())
    assert f"{versions.GO_WHEEL.project}=={versions.GO_WHEEL.version}" in (caught.value.reason or "")


def test_a_full_disk_is_told_before_anything_is_downloaded(with_go: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "WORK_GB", 1e9)
    with pytest.raises(SandboxError, match="GB of disk are free"):
        build.ensure(Told())
    assert not (with_go / "built").exists()


def test_one_build_at_a_time(with_go: Path) -> None:
    assets.cache().mkdir(parents=True)
    other = filelock.FileLock(assets.cache() / "build.lock")
    other.acquire()

    class Releases(Told):
        def say(self, text: str) -> None:
            super().say(text)
            other.release()

    told = Releases()
    build.ensure(told)
    assert told.lines[0] == "another build is running; waiting for it"
    assert assets.missing() == []


def test_pins_of_modules_and_of_code_agree() -> None:
    text = (go.TOOLS / "kubernetes" / "go.mod").read_text()
    assert f"k8s.io/kubernetes {versions.KUBERNETES}" in text
    assert f"sigs.k8s.io/gateway-api {versions.GATEWAY_API}" in (go.TOOLS / "gateway-api" / "go.sum").read_text()
