from __future__ import annotations

import copy
import hashlib
from datetime import date
from typing import Any

import pytest
import rfc8785

from llmd_runbook.analysis.manifest_diff import diff, digests, hidden, name_of, shaped, title

WEB: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web"},
    "spec": {"replicas": 1, "list": [{"a": 1}], "empty": {}},
}
SECRET: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "token", "annotations": {"last": "c2VjcmV0"}},
    "data": {"HF_TOKEN": "c2VjcmV0"},
    "stringData": {"other": "secret"},
}


def test_an_object_has_a_name_that_says_where_it_is() -> None:
    assert name_of(WEB, "llm-d") == "apps/v1 Deployment llm-d/web"
    elsewhere = {**WEB, "metadata": {"name": "web", "namespace": "other"}}
    assert name_of(elsewhere, "llm-d") == "apps/v1 Deployment other/web"


def test_anyone_can_recompute_a_digest() -> None:
    assert digests([WEB], "llm-d") == {
        "apps/v1 Deployment llm-d/web": "sha256:" + hashlib.sha256(rfc8785.dumps(WEB)).hexdigest()
    }


@pytest.mark.parametrize("path", [("metadata", "name"), ("spec", "replicas"), ("spec", "list"), ("kind",)])
def test_every_field_counts(path: tuple[str, ...]) -> None:
    other = copy.deepcopy(WEB)
    inner = other
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = "other"
    assert digests([other], "llm-d") != digests([WEB], "llm-d")


def test_a_date_of_yaml_is_no_obstacle() -> None:
    assert digests([{**WEB, "spec": {"day": date(2026, 1, 2)}}], "x") == digests(
        [{**WEB, "spec": {"day": "2026-01-02"}}], "x"
    )


def test_no_value_of_a_secret_is_shown_or_hashed() -> None:
    other = {**SECRET, "data": {"HF_TOKEN": "other"}, "stringData": {"other": "changed"}}
    assert digests([SECRET], "x") == digests([other], "x")
    assert digests([SECRET], "x") != digests([{**SECRET, "data": {"MORE": "x"}}], "x")
    for before, after in ((None, SECRET), (SECRET, None), (SECRET, {**other, "type": "Opaque"})):
        text = diff("s", before, after)
        assert "other: '[not shown]'" in text
        for value in ("c2VjcmV0", "secret\n", "changed", "last"):
            assert value not in text
    assert diff("s", SECRET, other) == ""
    assert hidden(WEB) == WEB


def test_defaults_of_the_server_are_left_out_of_the_comparison() -> None:
    live = copy.deepcopy(WEB)
    live["status"] = {"ready": 1}
    live["metadata"] |= {"uid": "u", "resourceVersion": "7", "managedFields": []}
    live["spec"] = {"replicas": "1", "list": [{"a": 1, "default": 2}], "paused": False}
    assert shaped(live, WEB) == WEB
    assert diff("web", shaped(live, WEB), WEB) == ""


def test_what_the_server_holds_beyond_a_list_is_a_difference() -> None:
    live = copy.deepcopy(WEB)
    live["spec"]["list"].append({"b": 2})
    text = diff("web", shaped(live, WEB), WEB)
    assert [line for line in text.splitlines()[2:] if line[0] in "+-"] == ["-  - b: 2"]


def test_a_field_that_is_missing_in_the_cluster_is_a_difference() -> None:
    live = copy.deepcopy(WEB)
    del live["spec"]["replicas"]
    assert "+  replicas: 1" in diff("web", shaped(live, WEB), WEB)


def test_diffs_are_headed_by_what_becomes_of_the_object() -> None:
    assert title(diff("web", None, WEB)) == "+ web"
    assert title(diff("web", WEB, None)) == "- web"
    assert title(diff("web", WEB, {**WEB, "spec": {}})) == "~ web"


def test_a_file_in_a_config_map_is_compared_line_by_line() -> None:
    before = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"f": "one\ntwo\nthree\n"}}
    text = diff("c", before, {**before, "data": {"f": "one\n2\nthree\n"}})
    assert [line for line in text.splitlines()[2:] if line[0] in "+-"] == ["-    two", "+    2"]
