"""The container's program, with a script in the place of the engine's Python."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

OWN_SESSION = Path("/proc/self/autogroup")
ENGINE = """#!/bin/bash
if [[ "$1" == */model.py ]]; then
    [ -e "$HOME/broken" ] && exit 7
    mkdir -p "$2"; echo "$3" > "$2/context"; exit
fi
printf '%s\\n' "$@" > "$HOME/words"; env > "$HOME/variables"
nice > "$HOME/niceness"; cat /proc/self/autogroup > "$HOME/session" 2>/dev/null
exit 0
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "python").write_text(ENGINE)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def start(home: Path, *, session: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "llmd_sandbox.images.vllm_cpu", str(home / "python")]
    words += ["vllm", "serve", "google/gemma-2b-it", "--dtype=half", "--max-model-len=4096"]
    variables = {**os.environ, "HOME": str(home), "LLMD_SANDBOX_POD_IP": "127.9.0.1", **more}
    return subprocess.run(words, env=variables, capture_output=True, text=True, check=False, start_new_session=session)


def variables(home: Path) -> dict[str, str]:
    lines = (home / "variables").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def test_it_makes_the_model_and_becomes_the_server(home: Path) -> None:
    done = start(home)
    assert done.returncode == 0, done.stderr
    words = (home / "words").read_text().split()
    assert words[:4] == ["-m", "vllm.entrypoints.openai.api_server", "--model", str(home / "model")]
    assert words[words.index("--host") + 1] == "127.9.0.1"
    assert (home / "model" / "context").read_text() == "8192\n"


def test_the_log_says_what_is_real_and_what_was_left_out(home: Path) -> None:
    said = start(home).stdout
    assert "the real vLLM 0.32.0 on CPU" in said
    assert "random weights" in said
    assert "google/gemma-2b-it" in said
    assert "left out, for there is no GPU and no download: --dtype half" in said


def test_it_stays_off_the_network(home: Path) -> None:
    start(home)
    found = variables(home)
    wanted = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_HOST_IP": "127.9.0.1"}
    wanted["SPT_NOENV"] = "1"  # else `llmd-sandbox down` does not find the engine's processes
    assert wanted.items() <= found.items()


def test_it_gives_way_to_whoever_measures(home: Path) -> None:
    start(home)
    assert int((home / "niceness").read_text()) == min(19, os.nice(0) + 15)
    if shared := (home / "session").read_text():
        assert shared.split()[-1] == "15"


def test_it_leaves_the_priority_of_a_session_alone_that_is_not_its_own(home: Path) -> None:
    before = OWN_SESSION.read_text() if OWN_SESSION.exists() else ""
    start(home, session=False)
    assert (home / "session").read_text() == before


def test_sockets_go_into_the_sandboxs_folder_unless_its_path_is_too_long(home: Path) -> None:
    start(home, LLMD_SANDBOX_ID="/short")
    assert variables(home)["VLLM_RPC_BASE_PATH"] == "/short"
    start(home, LLMD_SANDBOX_ID="/" + "long" * 20)
    assert "VLLM_RPC_BASE_PATH" not in variables(home)


def test_a_model_that_cannot_be_made_ends_the_container(home: Path) -> None:
    (home / "broken").touch()
    assert start(home).returncode == 7
    assert not (home / "words").exists()
