"""The stages of the migration, one module a notebook; the only callers of clients that change anything."""

from __future__ import annotations

from importlib import import_module

from llmd_runbook.verdicts import REGISTRY, CheckSpec

MODULES = (
    "review_configuration",
    "review_state",
    "review_capacity",
    "review_surroundings",
    "review_permissions",
    "beside",
    "scale_pool",
    "spot_pool",
    "autoscaler",
    "swap_patterns",
    "swap_gates",
    "swap_report",
    "swap_rollback",
    "verify",
    "routing_configuration",
    "routing_affinity",
    "routing_explained",
    "replica_failure",
    "throughput_and_cost",
    "cleanup",
)
"""Those that declare checks, in the order of the notebooks and of the cells within one."""


def all_checks() -> list[CheckSpec]:
    """Every check of every stage, in the order of the stages."""
    for module in MODULES:
        import_module(f"{__name__}.{module}")
    return list(REGISTRY.values())
