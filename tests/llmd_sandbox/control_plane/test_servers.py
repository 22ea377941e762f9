from pathlib import Path

import pytest

from llmd_sandbox.control_plane.servers import command
from llmd_sandbox.site import Site


@pytest.mark.parametrize(("grace_s", "flags"), [(50.0, ("50s", "5s")), (10.0, ("10s", "1s"))])
def test_nodes_are_looked_at_ten_times_before_they_are_doubted(grace_s: float, flags: tuple[str, str]) -> None:
    """50 s and 5 s are the controller manager's own defaults."""
    words = command("kube-controller-manager", Path("kcm"), Site("one", 5, node_grace_s=grace_s))
    assert f"--node-monitor-grace-period={flags[0]}" in words
    assert f"--node-monitor-period={flags[1]}" in words
