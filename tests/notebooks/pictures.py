"""`docs/*.png` from the stored outputs of the notebooks: `python -m tests.notebooks.pictures`"""

from __future__ import annotations

import base64

import nbformat

from llmd_runbook.profile import PROJECT_ROOT

PICTURES = {
    "routing": ("05_routing_affinity", "affinity_evidence.plot(stage)"),
    "throughput": ("06_throughput_and_cost", "throughput_and_cost.plot(stage)"),
    "cost": ("06_throughput_and_cost", "cost_tables.plot(stage)"),
}
"""Which cell draws which picture."""


def picture(notebook: str, source: str) -> bytes:
    """The PNG that the cell with this source has stored.

    Raises:
        ValueError: no cell, or several, with that source and one picture.
    """
    path = PROJECT_ROOT / "notebooks" / f"{notebook}.ipynb"
    cells = nbformat.read(path, as_version=nbformat.NO_CONVERT).cells
    outputs = [output for cell in cells if cell.source == source for output in cell.outputs]
    (data,) = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    return base64.b64decode(data)


if __name__ == "__main__":
    for name, (notebook, source) in PICTURES.items():
        (PROJECT_ROOT / "docs" / f"{name}.png").write_bytes(picture(notebook, source))
