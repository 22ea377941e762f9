from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmd_runbook.clients.releases import HelmDriver, HelmfileDriver, ReleaseSpec
from llmd_runbook.clients.releases.charts import folder_digest
from llmd_runbook.errors import ToolError

Answer = Callable[..., None]
ARCHIVE = b"the chart's archive"
_PULLS = """#!{python} -SE
import os, sys
words = sys.argv[1:]
if words[0] == "version":
    print("v3.18.0", end="")
elif words[0] == "pull":
    folder = words[words.index("--destination") + 1]
    for number in range({archives}):
        open(os.path.join(folder, "chart-%d.tgz" % number), "wb").write({content!r})
    open({log!r}, "w").write(" ".join(words))
"""


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    folder = tmp_path / "chart"
    (folder / "templates").mkdir(parents=True)
    (folder / "Chart.yaml").write_text("name: chart")
    (folder / "templates/a.yaml").write_text("a")
    return folder


def test_a_folders_digest_stands_for_names_and_bytes(chart: Path, tmp_path: Path) -> None:
    first = folder_digest(chart)
    assert first == folder_digest(chart)
    (chart / "templates/a.yaml").write_text("b")
    second = folder_digest(chart)
    (chart / "templates/a.yaml").rename(chart / "templates/b.yaml")
    third = folder_digest(chart)
    (chart / "templates/c.yaml").touch()
    assert len({first, second, third, folder_digest(chart)}) == 4


def test_a_folders_digest_does_not_depend_on_where_it_lies(chart: Path, tmp_path: Path) -> None:
    first = folder_digest(chart)
    assert folder_digest(chart.rename(tmp_path / "elsewhere")) == first


def test_a_folder_without_a_chart_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"no Chart\.yaml"):
        folder_digest(tmp_path)


def pulling(tools: Path, archives: int) -> Path:
    log = tools / "pulled"
    (tools / "helm").write_text(_PULLS.format(python=sys.executable, archives=archives, content=ARCHIVE, log=str(log)))
    return log


def test_an_archives_digest_is_that_of_its_bytes(tools: Path, chart: Path) -> None:
    log = pulling(tools, 1)
    specs = [ReleaseSpec("one", "oci://registry/chart", "v1.2.0"), ReleaseSpec("two", str(chart))]
    assert HelmDriver(specs, "llm-d").charts() == {
        "one": f"sha256:{hashlib.sha256(ARCHIVE).hexdigest()}",
        "two": folder_digest(chart),
    }
    assert log.read_text().startswith("pull oci://registry/chart --version v1.2.0 --destination ")


@pytest.mark.parametrize("archives", [0, 2])
def test_a_pull_that_leaves_no_one_archive_is_told(tools: Path, archives: int) -> None:
    pulling(tools, archives)
    with pytest.raises(ToolError, match="not exactly one archive"):
        HelmDriver([ReleaseSpec("one", "oci://registry/chart")], "llm-d").charts()


def test_helmfiles_charts_lie_relative_to_it_and_its_repositories_are_added(
    tools: Path, answer: Answer, chart: Path, calls: Callable[..., list[object]]
) -> None:
    pulling(tools, 1)
    entry = {"enabled": True, "installed": True, "version": "v1"}
    listed = [{"name": "a", "chart": "chart", **entry}, {"name": "b", "chart": "repo/b", **entry}]
    answer("helmfile", "list", stdout=json.dumps(listed))
    answer("helmfile", "repos")
    driver = HelmfileDriver(chart.parent / "helmfile.yaml", "gke", "x", "llm-d")
    assert driver.charts() == {"a": folder_digest(chart), "b": f"sha256:{hashlib.sha256(ARCHIVE).hexdigest()}"}
    assert calls("helmfile", "repos")
