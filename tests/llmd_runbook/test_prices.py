"""Price files: what is refused and how it is said, and what is made of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmd_runbook import cli
from llmd_runbook import profile as profiles
from llmd_runbook.analysis.claims import guide_claims
from llmd_runbook.claims_table import table, updated
from llmd_runbook.errors import EXIT_USAGE, ProfileError
from llmd_runbook.prices import PriceFile, Prices, load
from llmd_runbook.profile import PARAMETERS, PROJECT_ROOT

SHIPPED = sorted((PARAMETERS / "prices").glob("*.yaml"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A price file to spoil."""
    return Path(shutil.copy(PARAMETERS / "prices" / "us-central1.yaml", tmp_path / "mine.yaml"))


def spoiled(file: Path, old: str, new: str) -> ProfileError:
    text = file.read_text()
    assert old in text, f"{old!r} is not in the price file any more"
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(ProfileError) as caught:
        load(file)
    return caught.value


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_price_has_region_date_and_source(path: Path) -> None:
    listed = load(path)
    for price in listed.prices.values():
        assert price.region
        assert price.date >= "2026-01-01"
        assert price.source
        assert price.value > 0
    assert {name for name, _ in listed.used()} == set(listed.prices), "a price that nothing uses"


@pytest.mark.parametrize(
    ("old", "new", "key", "says"),
    [
        ("usd_per_hour: 0.35\n", "usd_per_hour: free\n", "prices.nvidia-t4.usd_per_hour", "value: 'free'"),
        ("usd_per_hour: 0.35\n", "usd_per_hour: -1\n", "prices.nvidia-t4.usd_per_hour", "greater than 0"),
        ("usd_per_hour: 0.35\n", "usd_per_day: 8\n", "prices.nvidia-t4.usd_per_day", "unknown key"),
        ("usd_per_hour: 0.35\n", "usd_per_hour: 0.35\n    usd_per_gib_month: 1\n", "prices.nvidia-t4", "exactly one"),
        ("    region: global\n", "", "prices.gke-cluster.region", "missing key"),
        ('date: "2026-08-20"', 'date: "2026-13-20"', "prices.n1-standard-4.date", "month must be in 1..12"),
        ('date: "2026-08-20"', "date: summer", "prices.n1-standard-4.date", "summer"),
        ("    verified: true", "    verified: perhaps", "prices.n1-standard-4.verified", "perhaps"),
        ("tpu_node: {ct6e-standard-4t: 1}", "tpu_node: {nothing: 1}", "the whole price file", "names nothing"),
        ("control_plane: {gke-cluster: 1}", "control_plane: {}", "assemblies.control_plane", "at least 1"),
        ("  cpu_node:", "  cpu_nodes:", "assemblies.cpu_nodes", "unknown key"),
    ],
)
def test_bad_prices_are_named_with_file_line_and_key(file: Path, old: str, new: str, key: str, says: str) -> None:
    error = spoiled(file, old, new)
    assert error.exit_code == EXIT_USAGE
    assert error.where is not None
    assert f": {key}: " in error.where
    assert says in error.where
    assert error.where.startswith(f"{file}:")
    assert "nothing was started" in error.what
    if new.strip() and key.rsplit(".", 1)[-1] in new:
        line = 1 + next(n for n, text in enumerate(file.read_text().splitlines()) if new.strip().split("\n")[0] in text)
        assert error.where.startswith(f"{file}:{line}:")


def test_an_unknown_key_is_answered_with_the_known_ones(file: Path) -> None:
    error = spoiled(file, "    verified: true", "    checked: true")
    assert error.remedy is not None
    assert "verified" in error.remedy


def test_sums_of_prices(file: Path) -> None:
    listed = load(file)
    assert listed.usd_per_hour("gpu_node") == pytest.approx(0.189999 + 0.35 + 100 * 0.10 / 730, abs=1e-6)
    assert listed.usd_per_hour("tpu_node") == pytest.approx(10.8)
    file.write_text(file.read_text().replace("  tpu_node: {ct6e-standard-4t: 1}\n", ""))
    assert load(file).usd_per_hour("tpu_node") is None


def named(tmp_path: Path, prices: str) -> profiles.Profile:
    text = (PARAMETERS / "sandbox.yaml").read_text()
    at = text.index("prices:")
    text = text[:at] + prices + text[text.index("cleanup:") :]
    (tmp_path / "lib").symlink_to(PROJECT_ROOT / "lib")
    (tmp_path / "parameters").mkdir()
    shutil.copytree(PARAMETERS / "helm", tmp_path / "parameters" / "helm")
    (tmp_path / "parameters" / "p.yaml").write_text(text)
    return profiles.load(str(tmp_path / "parameters" / "p.yaml"))


def test_a_profile_names_a_shipped_file_or_one_beside_it(tmp_path: Path, file: Path) -> None:
    file.write_text(file.read_text().replace("usd_per_hour: 0.35\n", "usd_per_hour: 0.45\n"))
    found = named(tmp_path, "prices: {file: ../mine.yaml}\n")
    assert found.prices.gpu_node_usd_per_hour == pytest.approx(0.189999 + 0.45 + 10 / 730, abs=1e-6)
    shipped = profiles.load("sandbox")
    assert isinstance(shipped.prices, PriceFile)
    assert shipped.prices.as_of == "2026-08-20"
    assert "not verified: nvidia-t4-spot, forwarding-rule" in shipped.prices.source


def test_record_and_digest_hold_the_very_prices(tmp_path: Path, file: Path) -> None:
    before = named(tmp_path, "prices: {file: ../mine.yaml}\n")
    assert before.model_dump(mode="json")["prices"]["content"]["prices"]["nvidia-t4"]["usd_per_hour"] == 0.35
    file.write_text(file.read_text().replace("usd_per_hour: 0.35\n", "usd_per_hour: 0.45\n"))
    assert profiles.load(str(before.path)).digest != before.digest


def test_a_profile_can_still_give_prices_itself(tmp_path: Path) -> None:
    plain = """prices: {gpu_node_usd_per_hour: 1, cpu_node_usd_per_hour: 1, control_plane_usd_per_hour: 1,
  load_balancer_usd_per_hour: 1, as_of: "2026-01-01", source: invented}
"""
    found = named(tmp_path, plain).prices
    assert isinstance(found, Prices)
    assert found.unverified
    assert found.gpu_node_spot_usd_per_hour is None
    assert found.tpu_node_usd_per_hour is None


@pytest.mark.parametrize(
    ("prices", "says"),
    [
        ("prices: {file: nowhere}\n", "no price file 'nowhere'"),
        ("prices: {file: us-central1, as_of: today}\n", "prices.as_of: unknown key"),
        ("prices: {gpu_node_usd_per_hour: 1}\n", "prices.source: missing key"),
    ],
)
def test_bad_prices_of_a_profile(tmp_path: Path, prices: str, says: str) -> None:
    with pytest.raises(ProfileError) as caught:
        named(tmp_path, prices)
    assert says in str(caught.value)


def test_the_command_shows_prices_and_sums(file: Path) -> None:
    result = CliRunner().invoke(cli.app, ["prices", "show", str(file)])
    assert result.exit_code == 0
    assert "nvidia-t4-spot" in result.output
    assert "NO" in result.output
    assert "0.5537" in result.output


def test_readme_has_every_claim_as_it_is_computed() -> None:
    readme = (PROJECT_ROOT / "README.md").read_text()
    assert updated(readme) == readme, "run `make docs`"
    assert len(table().splitlines()) == 4 + len(guide_claims({}))
