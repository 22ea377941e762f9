"""The machine types that a sandbox's zones have, with the figures of Compute Engine's own."""

from __future__ import annotations

from dataclasses import dataclass

CPU_QUOTAS = {"e2": "CPUS", "n1": "CPUS", "g2": "G2_CPUS", "a2": "A2_CPUS"}
"""By machine family the quota that its CPUs count in."""


@dataclass(frozen=True)
class MachineType:
    """One type; `gpu` is the accelerator that comes with it, and how many of them."""

    name: str
    guest_cpus: int
    memory_mb: int
    gpu: tuple[str, int] | None = None
    shared_cpu: bool = False

    @property
    def cpu_quota(self) -> str:
        """The metric of the quota that its CPUs count in."""
        return CPU_QUOTAS[self.name.partition("-")[0]]


MACHINES = {
    item.name: item
    for item in (
        MachineType("e2-medium", 2, 4096, shared_cpu=True),
        MachineType("e2-standard-4", 4, 16384),
        *(MachineType(f"n1-standard-{cpus}", cpus, cpus * 3840) for cpus in (1, 2, 4, 8, 16)),
        *(MachineType(f"g2-standard-{cpus}", cpus, cpus * 4096, ("nvidia-l4", 1)) for cpus in (4, 8, 12, 16)),
        MachineType("a2-highgpu-1g", 12, 87040, ("nvidia-tesla-a100", 1)),
    )
}
"""By name."""
