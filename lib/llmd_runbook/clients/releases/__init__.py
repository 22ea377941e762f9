"""What is installed by a release tool: one driver a tool behind one protocol."""

from llmd_runbook.clients.releases.base import Driver, OnLine, Outcome, Release
from llmd_runbook.clients.releases.helm import HelmDriver, ReleaseSpec
from llmd_runbook.clients.releases.helmfile import HelmfileDriver

__all__ = ["Driver", "HelmDriver", "HelmfileDriver", "OnLine", "Outcome", "Release", "ReleaseSpec"]
