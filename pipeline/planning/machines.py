"""Chooses the machine type that a run is predicted on."""

from cluster.cluster_file import ClusterFile
from pipeline.config.machine_types import MachineType, machine_type, machine_with


def machine_for(gpu: str, file: ClusterFile | None) -> MachineType | None:
    """Returns the cluster file's machine type with a GPU, else the first known one, else None."""
    known = [machine_type(kind.instance) for kind in file.node_types] if file else []
    return next((machine for machine in known if machine and machine.gpu == gpu), machine_with(gpu))
