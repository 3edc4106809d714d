"""The one table of machines with GPUs that clouds rent out: their GPUs, and the network between them.

From the providers' own pages: AWS "Amazon EC2 P4, P5 instances", Google Cloud "GPU machine types". To add one, add a
line to `MACHINE_TYPES`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class MachineType:
    """A machine type.

    Attributes:
        name: the provider's name of it.
        gpu: its GPUs' name, as in `A100-80GB`.
        gpus: number of its GPUs.
        network_gbit_per_s: bandwidth of all its interfaces together in one direction, Gbit/s.
    """

    name: str
    gpu: str
    gpus: int
    network_gbit_per_s: float

    @property
    def network_bytes_per_s(self) -> float:
        """Bytes that a machine sends to the others in a second, at most."""
        return self.network_gbit_per_s * 1e9 / 8


MACHINE_TYPES = (
    MachineType("p4d.24xlarge", "A100-40GB", 8, 400),
    MachineType("p4de.24xlarge", "A100-80GB", 8, 400),
    MachineType("p5.48xlarge", "H100", 8, 3200),
    MachineType("p5en.48xlarge", "H200", 8, 3200),
    MachineType("a2-highgpu-8g", "A100-40GB", 8, 100),
    MachineType("a2-ultragpu-8g", "A100-80GB", 8, 100),
    MachineType("a3-highgpu-8g", "H100", 8, 800),
    MachineType("a3-megagpu-8g", "H100", 8, 1600),
    MachineType("a3-ultragpu-8g", "H200", 8, 3200),
)
"""All known machine types. The first one with a GPU stands for it where no cluster file names one."""


def machine_type(name: str) -> MachineType | None:
    """Returns the machine type of a name, or None if it is unknown."""
    return next((machine for machine in MACHINE_TYPES if machine.name == name), None)


def machine_with(gpu: str) -> MachineType | None:
    """Returns the first machine type with a GPU, or None if there is none."""
    return next((machine for machine in MACHINE_TYPES if machine.gpu == gpu), None)
