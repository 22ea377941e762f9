"""The table from container image to the local program that stands in for it.

The program gets the container's own words, so that the upstream charts' pods run as they are.
"""

from __future__ import annotations

import os
import sys

from llmd_sandbox.given import EPP_BINARY
from llmd_sandbox.images.vllm_cpu import environment
from llmd_sandbox.site import SIMULATOR, VLLM

_VLLM = {"llm-d-cuda", "vllm-openai", "vllm"}
_PICKER = {"llm-d-inference-scheduler", "llm-d-router-endpoint-picker", "epp"}


def resolve(image: str, command: list[str], args: list[str], engine: str = SIMULATOR) -> list[str] | None:
    """The argv to run for a container, or None for an image that is not in the table.

    `command` and `args` are the container's, variables already expanded; without a command the image's own
    entry point holds (`vllm serve`, `epp`). `engine` is the site's.
    """
    name = repository(image).rsplit("/", 1)[-1]
    if name in _VLLM:
        entry = command or ["vllm", "serve"]
        if engine == VLLM:
            return [sys.executable, "-m", "llmd_sandbox.images.vllm_cpu", str(environment.python()), *entry, *args]
        return [sys.executable, "-m", "llmd_sandbox.images.vllm", *entry, *args]
    if name in _PICKER:
        binary = os.environ.get(EPP_BINARY)
        program = ["llmd_sandbox.images.real_picker", binary] if binary else ["llmd_sandbox.images.picker"]
        return [sys.executable, "-m", *program, *command[1:], *args]
    return None


def repository(image: str) -> str:
    """The image without tag and digest.

    >>> repository("localhost:5000/llm-d/llm-d-cuda:v0.4.0@sha256:1f")
    'localhost:5000/llm-d/llm-d-cuda'
    """
    head, slash, tail = image.split("@", 1)[0].rpartition("/")
    return head + slash + tail.split(":", 1)[0]
