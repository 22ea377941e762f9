"""What a shell or a program needs in its environment to work with a sandbox."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from llmd_sandbox.control_plane import assets
from llmd_sandbox.site import Site


def variables(site: Site) -> dict[str, str]:
    """KUBECONFIG, the addresses of GKE's and Compute Engine's APIs, and the sandbox's name."""
    host, port = site.gke
    return {
        "KUBECONFIG": str(site.kubeconfig),
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_CONTAINER": f"http://{host}:{port}/",
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE": f"http://{host}:{port}/compute/v1/",
        "LLMD_SANDBOX_NAME": site.name,
    }


def merged(site: Site, found: dict[str, Path], own: Mapping[str, str]) -> dict[str, str]:
    """The environment `own` with `variables` and a PATH in which kubectl and helm are found."""
    first, last = assets.client_folders(found)
    search = os.pathsep.join([*first, own.get("PATH", os.defpath), *last])
    return {**own, **variables(site), "PATH": search}


def write(site: Site, found: dict[str, Path]) -> None:
    """Write the env file, to be sourced by a shell."""
    first, last = assets.client_folders(found)
    search = [*map(shlex.quote, first), '"$PATH"', *map(shlex.quote, last)]
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables(site).items()]
    site.env_file.write_text("\n".join([*lines, f"export PATH={os.pathsep.join(search)}", ""]))
