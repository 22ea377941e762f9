"""The sandbox's picker against the lines that both generations of the real one wrote of the same files."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmd_runbook.analysis.picker_log_lines import split
from llmd_runbook.analysis.scorers import Generation
from llmd_sandbox.images.picker.file_as_logged import as_logged

DATA = Path(__file__).parents[3] / "data"
V0_4 = "apiVersion: inference.networking.x-k8s.io/v1alpha1\nkind: EndpointPickerConfig\n"
V0_10 = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"


@pytest.mark.parametrize(("version", "generation"), [("v0.4", Generation.V0_4), ("v0.10", Generation.V0_10)])
def test_the_line_is_the_real_pickers(version: str, generation: Generation) -> None:
    real = (DATA / f"picker-{version}-start.log").read_text(encoding="utf-8").splitlines()[-1]
    message, fields = split(real)
    text = (DATA / f"picker-{version}-start.yaml").read_text(encoding="utf-8")
    assert as_logged(text, generation) == (message, fields["config"])


def test_a_file_without_profiles() -> None:
    """As both logged it when they were given it."""
    bare = "plugins: [{type: prefix-cache-scorer}]\n"
    _, old = as_logged(V0_4 + bare, Generation.V0_4)
    assert (
        old == "{Plugins: [{/prefix-cache-scorer}], SchedulingProfiles: [], FeatureGates: {}, SaturationDetector: {}}"
    )
    _, new = as_logged(V0_10 + bare, Generation.V0_10)
    assert new == {
        "apiVersion": "llm-d.ai/v1alpha1",
        "dataLayer": None,
        "kind": "EndpointPickerConfig",
        "plugins": [{"name": "prefix-cache-scorer", "parameters": None, "type": "prefix-cache-scorer"}],
        "schedulingProfiles": None,
    }
