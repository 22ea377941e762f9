"""A Gateway that both patterns are served through may not go with the releases of the one that is removed."""

from __future__ import annotations

from llmd_runbook.errors import ProfileError
from llmd_runbook.profile import Profile
from llmd_runbook.stages.planning.facts import Rendered


def refuse(profile: Profile, *, removed: Rendered, stays: Rendered) -> None:
    """Return where nothing that is removed renders the Gateway of the pattern that stays.

    Where that one renders the Gateway too, it comes back with it.

    Raises:
        ProfileError: with the Gateway and the releases.
    """
    name = stays.pattern.gateway
    if name in _gateways(removed) - _gateways(stays):
        raise ProfileError(
            f"removing {removed.pattern.model} would remove the Gateway that {stays.pattern.model} is served through; "
            "nothing was changed",
            where=f"{profile.path}: Gateway {profile.namespace}/{name}",
            reason=f"it is rendered by {', '.join(removed.names)} alone; its address would go with it",
            remedy="keep that Gateway in a release that the profile does not name, or give each pattern a Gateway of "
            "its own",
        )


def _gateways(found: Rendered) -> set[str]:
    return {item["metadata"]["name"] for item in found.manifests if item["kind"] == "Gateway"}
