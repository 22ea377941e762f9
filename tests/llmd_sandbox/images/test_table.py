import sys

import pytest

from llmd_sandbox.given import EPP_BINARY
from llmd_sandbox.images.table import repository, resolve
from llmd_sandbox.images.vllm_cpu import environment
from llmd_sandbox.site import VLLM as REAL

VLLM = [sys.executable, "-m", "llmd_sandbox.images.vllm"]


@pytest.fixture(autouse=True)
def _no_real_picker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(EPP_BINARY, raising=False)


@pytest.mark.parametrize(
    "image",
    [
        "ghcr.io/llm-d/llm-d-cuda:v0.4.0",
        "vllm/vllm-openai:v0.23.0",
        "localhost:5000/vllm@sha256:abc",
        "vllm-openai",
    ],
)
def test_a_vllm_image_runs_the_simulator_with_the_containers_words(image: str) -> None:
    assert resolve(image, ["vllm", "serve"], ["m", "--port", "8000"]) == [
        *VLLM,
        "vllm",
        "serve",
        "m",
        "--port",
        "8000",
    ]


def test_with_the_real_engine_it_runs_vllm_with_the_same_words_and_the_picker_stays() -> None:
    words = ["vllm", "serve", "m", "--port", "8000"]
    expected = [sys.executable, "-m", "llmd_sandbox.images.vllm_cpu", str(environment.python()), *words]
    assert resolve("vllm/vllm-openai:v1", words[:2], words[2:], REAL) == expected
    assert resolve("vllm/vllm-openai:v1", [], words[2:], engine=REAL) == expected
    assert resolve("epp:v1", [], ["-v", "5"], REAL) == resolve("epp:v1", [], ["-v", "5"])


def test_without_a_command_the_image_s_own_entry_point_holds() -> None:
    assert resolve("vllm/vllm-openai:v1", [], ["--model", "m"]) == [*VLLM, "vllm", "serve", "--model", "m"]


@pytest.mark.parametrize(
    "image",
    [
        "ghcr.io/llm-d/llm-d-inference-scheduler:v0.4.0",
        "ghcr.io/llm-d/llm-d-router-endpoint-picker:v0.10.0",
        "registry.k8s.io/gateway-api-inference-extension/epp:v1.2.0",
    ],
)
def test_a_picker_image_runs_our_picker(image: str) -> None:
    expected = [sys.executable, "-m", "llmd_sandbox.images.picker", "--pool-name", "p"]
    assert resolve(image, [], ["--pool-name", "p"]) == expected
    assert resolve(image, ["/epp"], ["--pool-name", "p"]) == expected


def test_a_given_binary_is_the_picker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EPP_BINARY, "/opt/epp")
    program = [sys.executable, "-m", "llmd_sandbox.images.real_picker"]
    assert resolve("epp:v1", [], ["-v", "5"]) == [*program, "/opt/epp", "-v", "5"]


@pytest.mark.parametrize("image", ["nginx:1.27", "ghcr.io/x/my-vllm-fork:1", "vllm/other"])
def test_an_unknown_image_has_no_program(image: str) -> None:
    assert resolve(image, [], []) is None


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("a/b", "a/b"),
        ("h:5000/a/b:t", "h:5000/a/b"),
        ("h:5000/b@sha256:0", "h:5000/b"),
        ("b:t@sha256:0", "b"),
    ],
)
def test_tag_and_digest_are_no_part_of_the_repository(image: str, expected: str) -> None:
    assert repository(image) == expected
