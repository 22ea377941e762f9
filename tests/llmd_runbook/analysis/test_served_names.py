from __future__ import annotations

from typing import Any

import pytest

from llmd_runbook.analysis.served_names import served_names


def deployment(*args: str, command: tuple[str, ...] = ("vllm", "serve")) -> dict[str, Any]:
    container = {"command": list(command), "args": list(args)}
    return {"kind": "Deployment", "spec": {"template": {"spec": {"containers": [container]}}}}


@pytest.mark.parametrize(
    ("args", "names"),
    [
        (["model", "--served-model-name", "a"], ["a"]),
        (["--served-model-name", "a", "b", "--dtype", "half"], ["a", "b"]),
        (["--served-model-name=a", "--dtype", "half"], ["a"]),
        (["--served-model-name", "a", "--served-model-name", "b"], ["b"]),  # the last one counts
        (["--dtype", "half"], []),
    ],
)
def test_the_names_that_vllm_would_serve(args: list[str], names: list[str]) -> None:
    assert served_names([deployment(*args), {"kind": "Service"}]) == names


def test_the_names_in_a_shells_script() -> None:
    script = "exec vllm serve m --served-model-name a 'b c' --port 8000"
    assert served_names([deployment(script, command=("sh", "-c"))]) == ["a", "b c"]
    assert served_names([deployment("vllm --served-model-name 'a", command=("sh", "-c"))]) == []
