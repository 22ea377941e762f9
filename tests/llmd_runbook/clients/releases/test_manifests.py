from __future__ import annotations

import pytest

from llmd_runbook.clients.releases import manifests
from llmd_runbook.errors import ToolError


def test_documents_and_lists_become_objects() -> None:
    text = "---\n# empty\n---\nkind: A\n---\nkind: List\nitems:\n- kind: B\n- kind: C\n"
    assert [found["kind"] for found in manifests.parse(text, "here")] == ["A", "B", "C"]


def test_bad_yaml_names_the_line() -> None:
    with pytest.raises(ToolError) as caught:
        manifests.parse("a: b\nc: [\n", "helm template x")
    assert caught.value.where == "helm template x"
    assert "line 3" in str(caught.value.reason)


@pytest.mark.parametrize("text", ["<html>Sign in</html>", "- a\n- b\n", "kind: A\n---\nDone.\n"])
def test_what_is_no_object_is_told(text: str) -> None:
    with pytest.raises(ToolError, match="no manifests") as caught:
        manifests.parse(text, "helm template x")
    assert caught.value.where == "helm template x"
    assert caught.value.reason
    assert caught.value.remedy


def test_a_secret_keeps_only_its_keys() -> None:
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {"name": "token", "annotations": {"last": "c2VjcmV0"}},
        "data": {"HF_TOKEN": "c2VjcmV0"},
        "stringData": {"other": "secret"},
    }
    shown = manifests.without_secrets(secret)
    assert "secret" not in str(shown)
    assert "c2VjcmV0" not in str(shown)
    assert shown["metadata"] == {"name": "token"}
    assert list(shown["data"]) == ["HF_TOKEN"]


def test_order_does_not_make_a_difference() -> None:
    one, other = {"kind": "A", "spec": {"x": 1, "y": [1, 2]}}, {"kind": "B"}
    assert manifests.same([one, other], [other, {"spec": {"y": [1, 2], "x": 1}, "kind": "A"}])
    assert not manifests.same([one], [{"kind": "A", "spec": {"x": 1, "y": [2, 1]}}])
