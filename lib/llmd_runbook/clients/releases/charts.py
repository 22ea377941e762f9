"""What a chart is, byte by byte: a digest that stands for it in what an operator approves."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import rfc8785

from llmd_runbook.clients.releases.binary import Helm
from llmd_runbook.errors import ToolError


def digest(helm: Helm, chart: str, version: str) -> str:
    """`sha256:` of a chart: of its archive as helm pulls it, or of a folder's files.

    Raises:
        ToolError: helm cannot pull it, or the folder holds no chart.
    """
    folder = Path(chart)
    return folder_digest(folder) if "://" not in chart and folder.is_dir() else _archive_digest(helm, chart, version)


def folder_digest(folder: Path) -> str:
    """SHA-256 of the canonical JSON (RFC 8785) of each file's relative path and the SHA-256 of its bytes.

    Raises:
        ToolError: there is no Chart.yaml in it.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if folder / "Chart.yaml" not in files:
        raise ToolError("the chart's folder holds no Chart.yaml", where=str(folder), remedy="correct the chart's path")
    content = {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return f"sha256:{hashlib.sha256(rfc8785.dumps(content)).hexdigest()}"


def _archive_digest(helm: Helm, chart: str, version: str) -> str:
    """SHA-256 of the archive: what `sha256sum` says of the file that `helm pull` leaves."""
    with tempfile.TemporaryDirectory() as folder:
        helm.run("pull", chart, *(["--version", version] if version else []), "--destination", folder)
        archives = list(Path(folder).glob("*.tgz"))
        if len(archives) != 1:
            found = ", ".join(path.name for path in archives) or "none"
            raise ToolError(
                "helm pull left not exactly one archive",
                where=f"helm pull {chart} --version {version}",
                reason=f"archives: {found}",
                remedy="run the command by hand to see what it does",
            )
        return f"sha256:{hashlib.sha256(archives[0].read_bytes()).hexdigest()}"
