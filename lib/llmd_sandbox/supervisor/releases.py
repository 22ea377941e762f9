"""Installing a release with the real helm, from our own charts and the product's value files."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from llmd_sandbox.errors import SandboxError
from llmd_sandbox.processes import die_with_parent, environment
from llmd_sandbox.site import Site

CHARTS = Path(__file__).parents[1] / "charts"


def value_files(values: Path, release: str) -> list[Path]:
    """`RELEASE.yaml`, then what a sandbox has differently: `RELEASE.sandbox.yaml`, where there is one.

    Raises:
        SandboxError: the first is missing.
    """
    first = values / f"{release}.yaml"
    if not first.is_file():
        raise SandboxError(
            f"The values of release {release} are missing.",
            where=str(first),
            remedy="name the folder that has them with --values, or start without releases: --bare",
        )
    return [file for file in (first, values / f"{release}.sandbox.yaml") if file.is_file()]


async def install(site: Site, helm: Path, namespace: str, release: str, chart: str, files: list[Path]) -> None:
    """`helm upgrade --install`; returns when the objects are created, not when they work.

    Raises:
        SandboxError: helm failed; the reason has what it printed last.
    """
    words = [str(helm), "upgrade", "--install", release, str(CHARTS / chart), "--namespace", namespace]
    words += [word for file in files for word in ("--values", str(file))]
    own = {"KUBECONFIG": str(site.component_kubeconfig)}
    own |= {f"HELM_{kind}_HOME": str(site.directory / "helm" / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
    process = await asyncio.create_subprocess_exec(
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment(site, own),
        preexec_fn=die_with_parent(),
        cwd=os.sep,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        last = output.decode(errors="replace").strip().splitlines()[-5:]
        raise SandboxError(
            f"helm could not install release {release} (exit status {process.returncode}).",
            where=f"chart {chart}, values {', '.join(map(str, files))}",
            reason="\n          ".join(last),
        )
