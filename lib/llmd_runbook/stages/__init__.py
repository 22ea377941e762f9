"""The stages of the migration, in a folder where they have many parts; only they call clients that change anything."""

from __future__ import annotations

from importlib import import_module

from llmd_runbook.verdicts import REGISTRY, CheckSpec

MODULES = (
    "review.configuration",
    "review.state",
    "review.quota",
    "review.capacity",
    "review.surroundings",
    "review.permissions",
    "planning.beside",
    "pool.scale",
    "pool.spot",
    "pool.autoscaler",
    "swap.patterns",
    "swap.gates",
    "swap.report",
    "swap.rollback",
    "verify",
    "routing.configuration",
    "routing.affinity",
    "routing.explained",
    "routing.replica_failure",
    "throughput_and_cost",
    "load.replica_scaling",
    "cleanup",
)
"""Those that declare checks, in the order of the notebooks and of the cells within one."""


def all_checks() -> list[CheckSpec]:
    """Every check of every stage, in the order of the stages."""
    for module in MODULES:
        import_module(f"{__name__}.{module}")
    return list(REGISTRY.values())
