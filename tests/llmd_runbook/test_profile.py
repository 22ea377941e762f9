"""Profiles: what is refused, and how it is said."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from llmd_runbook.errors import EXIT_USAGE, ProfileError
from llmd_runbook.profile import PARAMETERS, PROJECT_ROOT, HelmReleases, load
from llmd_runbook.profile_table import table, updated


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A profile to spoil, beside everything that it names."""
    shutil.copytree(PARAMETERS, tmp_path / "parameters")
    (tmp_path / "lib").symlink_to(PROJECT_ROOT / "lib")
    return tmp_path / "parameters" / "sandbox.yaml"


def spoiled(file: Path, old: str, new: str) -> ProfileError:
    text = file.read_text()
    assert old in text, f"{old!r} is not in the profile any more"
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(ProfileError) as caught:
        load(str(file))
    return caught.value


def line_of(file: Path, text: str) -> int:
    return 1 + next(n for n, line in enumerate(file.read_text().splitlines()) if text in line)


@pytest.mark.parametrize("name", ["sandbox", "gke-t4", "sandbox-newest"])
def test_shipped_profiles_are_valid(name: str) -> None:
    profile = load(name)
    assert profile.name == name
    assert profile.path == PARAMETERS / f"{name}.yaml"
    assert len(profile.digest) == 64


def test_what_the_readme_says_of_the_newest_layout_on_gke_is_a_profile(copy: Path) -> None:
    """Its snippet in the copy of `gke-t4.yaml`, and Pattern 1 likewise."""
    chapter = (PROJECT_ROOT / "README.md").read_text().split("### Newest llm-d\n")[1].split("\n### ")[0]
    snippet = chapter.split("```yaml\n")[1].split("```")[0]
    likewise = snippet.replace("pattern3", "pattern1").replace("Qwen/Qwen2.5-3B-Instruct", "google/gemma-2b-it")
    likewise = likewise.replace("replicas: 3", "replicas: 1")
    shipped = yaml.safe_load((PARAMETERS / "gke-t4.yaml").read_text())
    file = copy.with_name("newest.yaml")
    file.with_name("llm-d-modelservice").mkdir()  # by `helm pull`, as the chapter says
    file.write_text(yaml.safe_dump({**shipped, **yaml.safe_load(snippet), **yaml.safe_load(likewise)}))
    profile, known = load(str(file)), load("sandbox-newest")
    for said, wanted in ((profile.pattern1, known.pattern1), (profile.pattern3, known.pattern3)):
        assert (said.inference_pool, said.gateway, said.model) == (wanted.inference_pool, wanted.gateway, wanted.model)
        assert isinstance(said.releases, HelmReleases)
        assert isinstance(wanted.releases, HelmReleases)
        assert [(one.name, one.values) for one in said.releases.releases] == [
            (one.name, one.values) for one in wanted.releases.releases
        ]
        assert all((PARAMETERS / values).is_file() for one in said.releases.releases for values in one.values)


def test_digest_follows_content_and_not_layout(copy: Path) -> None:
    before = load(str(copy)).digest
    copy.write_text("# a comment\n" + copy.read_text())
    assert load(str(copy)).digest == before
    copy.write_text(copy.read_text().replace("concurrency: 12", "concurrency: 13"))
    assert load(str(copy)).digest != before


@pytest.mark.parametrize(
    ("old", "new", "key", "says"),
    [
        ("  max_nodes: 5", "  max_nodes: 2", "pool", "max_nodes 2 is below nodes 3"),
        ("  concurrency: 12", "  concurrency: 12\n  processes: 13", "load", "cannot be split over 13 processes"),
        ("  concurrency: 12", "  concurrency: 12\n  processes: 2\n  scheduler: tcp://a:1", "load", "name one"),
        ("  nodes: 3", "  nodes: 2", "the whole profile", "pool.nodes 2 is below pattern3.replicas 3"),
        ("  replicas: 1", "  replicas: 0", "pattern1.replicas", "greater than or equal to 1"),
        ("  replicas: 1", "  replicas: three", "pattern1.replicas", "value: 'three'"),
        ("  replicas: 1", "  replicas: true", "pattern1.replicas", "value: True"),
        ("  replicas: 1", "  replica: 1", "pattern1.replica", "unknown key"),
        ("  name: llm-d-route", "  name: Not_A_Name", "route.name", "Kubernetes name"),
        ("    driver: helm\n", "    driver: kustomize\n", "pattern1.releases", "kustomize"),
        ("option: restore_pattern1", "option: destroy", "cleanup.option", "value: 'destroy'"),
        ("        chart:", "        charts:", "pattern1.releases.releases.0.charts", "unknown key"),
        (
            "inference_pool: gaie-pattern3",
            "inference_pool: gaie-pattern1",
            "the whole profile",
            "must differ",
        ),
    ],
)
def test_bad_values_are_named_with_file_line_and_key(copy: Path, old: str, new: str, key: str, says: str) -> None:
    error = spoiled(copy, old, new)
    assert error.exit_code == EXIT_USAGE
    assert error.where is not None
    assert f": {key}: " in error.where
    assert says in error.where
    assert "nothing was started" in error.what
    assert error.remedy
    if key.rsplit(".", 1)[-1] in new:
        assert error.where.startswith(f"{copy}:{line_of(copy, new.strip())}:")


def test_unknown_key_is_answered_with_the_known_ones(copy: Path) -> None:
    error = spoiled(copy, "  min_nodes: 0", "  minimum: 0")
    assert error.remedy is not None
    assert "min_nodes" in error.remedy


def test_every_mistake_is_listed_at_once(copy: Path) -> None:
    copy.write_text(copy.read_text().replace("  replicas: 1", "  replicas: 0"))
    error = spoiled(copy, "  replicas: 3", "  replicas: x")
    assert error.where is not None
    assert "pattern1.replicas" in error.where
    assert "pattern3.replicas" in error.where


def test_key_twice_is_refused(copy: Path) -> None:
    error = spoiled(copy, "namespace: llm-d", "namespace: llm-d\nnamespace: other")
    assert "stands twice" in str(error)
    assert f"{copy}:{line_of(copy, 'namespace: other')}" in str(error)


def test_broken_yaml_names_the_line(copy: Path) -> None:
    error = spoiled(copy, "namespace: llm-d", "namespace: [llm-d")
    assert error.where is not None
    assert error.where.startswith(f"{copy}:")


def test_missing_values_file_is_found_before_anything_starts(copy: Path) -> None:
    error = spoiled(copy, "values: [helm/ms-pattern3.yaml]", "values: [helm/absent.yaml]")
    assert "pattern3.releases.releases.1.values.0: helm/absent.yaml" in str(error)


@pytest.mark.parametrize(
    ("key", "old"),
    [
        ("route.ca_file", "route:\n  name: llm-d-route\n"),
        ("pattern2.route.ca_file", "    name: llm-d-route-pattern2\n"),
    ],
)
def test_a_missing_authority_is_found_before_anything_starts(copy: Path, key: str, old: str) -> None:
    beside = copy.with_name("sandbox-with-pattern2.yaml")
    indent = " " * (len(old) - len(old.lstrip()) or 2)
    error = spoiled(beside, old, f"{old}{indent}ca_file: absent.pem\n")
    assert error.exit_code == EXIT_USAGE
    assert error.where == f"{beside}:{line_of(beside, 'absent.pem')}: {key}: absent.pem"
    assert "does not exist; nothing was started" in error.what
    beside.with_name("absent.pem").touch()
    load(str(beside))


def test_no_such_profile_names_those_that_exist() -> None:
    with pytest.raises(ProfileError) as caught:
        load("nowhere")
    assert "gke-t4, gke-t4-with-pattern2, sandbox" in str(caught.value)


def test_empty_profile(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(ProfileError, match="no mapping"):
        load(str(tmp_path / "empty.yaml"))


def test_table_has_a_row_for_every_key_of_the_shipped_profile() -> None:
    def keys(node: object, prefix: str = "") -> list[str]:
        if isinstance(node, dict):
            return [key for name, value in node.items() for key in keys(value, f"{prefix}{name}.")]
        if isinstance(node, list) and node and isinstance(node[0], dict):
            return keys(node[0], f"{prefix.removesuffix('.')}[].")
        return [prefix.removesuffix(".")]

    text = table()
    found = [key for key in keys(yaml.safe_load((PARAMETERS / "sandbox.yaml").read_text())) if "pattern3" not in key]
    assert found
    assert [key for key in found if f"`{key}`" not in text] == []


def test_readme_table_is_current() -> None:
    readme = (PROJECT_ROOT / "README.md").read_text()
    assert updated(readme) == readme, "run `make docs`"


def beside(replicas: int) -> str:
    text = (PARAMETERS / "sandbox-with-pattern2.yaml").read_text()
    text = text.replace("  nodes: 3", f"  nodes: {replicas}").replace("  replicas: 3", f"  replicas: {replicas}")
    return text.replace("../lib/", f"{PROJECT_ROOT}/lib/").replace("[helm/", f"[{PARAMETERS}/helm/")


@pytest.mark.parametrize("replicas", [3, 4])
def test_pattern_2_beside(tmp_path: Path, replicas: int) -> None:
    (tmp_path / "p.yaml").write_text(beside(replicas))
    assert load(str(tmp_path / "p.yaml")).nodes_beside == 1
    assert load("sandbox").nodes_beside == 0


def test_a_fifth_replica_beside_pattern_2_exceeds_the_pool(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(beside(5))
    with pytest.raises(ProfileError) as refused:
        load(str(tmp_path / "p.yaml"))
    assert "pool.nodes 5 + pattern2.replicas 1 = 6 > pool.max_nodes 5" in str(refused.value)


def test_one_url_cannot_lead_to_two_gateways(copy: Path) -> None:
    """Pattern 3 would be asked through Pattern 1's address, after the swap has removed what stood there."""
    url = ("  name: llm-d-route\n", "  name: llm-d-route\n  url: http://127.0.0.1:8080\n")
    refused = spoiled(copy.with_name("gke-t4.yaml"), *url)
    assert refused.exit_code == EXIT_USAGE
    assert "infra-pattern1-inference-gateway and pattern3.gateway infra-pattern3-inference-gateway" in str(refused)
    assert "http_proxy" in str(refused)
    copy.write_text(copy.read_text().replace(*url))
    assert load(str(copy)).route.url == "http://127.0.0.1:8080"


def test_pattern_2_needs_a_gateway_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(beside(3).replace("infra-pattern2-inference-gateway", "infra-inference-gateway"))
    with pytest.raises(ProfileError) as refused:
        load(str(tmp_path / "p.yaml"))
    assert "give Pattern 2 its own" in str(refused.value)
