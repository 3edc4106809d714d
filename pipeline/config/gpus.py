"""GPU types: their dense bf16 peak and their memory, from their data sheets."""

from typing import Any

PEAK_TFLOP_PER_S = {
    "A100": 312.0,
    "H100 PCIe": 756.5,
    "H100 NVL": 835.5,
    "H100": 989.5,
    "H200 NVL": 835.5,
    "H200": 989.5,
    "L40S": 362.0,
    "A10G": 70.0,
    "A10": 125.0,
}
"""Dense bf16 peak by a part of the device's name, in TFLOP/s, first match wins.

From NVIDIA's data sheets of each card; those that only state the figure with sparsity are halved. A10G: AWS's card,
whose data sheet states 70.
"""


MEMORY_GB = {
    "A100 40GB": 40,
    "A100 80GB": 80,
    "H100 PCIe": 80,
    "H100 NVL": 94,
    "H100": 80,
    "H200 NVL": 141,
    "H200": 141,
    "L40S": 48,
    "A10G": 24,
    "A10": 24,
}
"""Memory by a part of the device's name, as the data sheets above state it: read as 10^9 bytes, of which no driver
reports fewer. The A100 comes in two sizes, so its name must have one."""

ASSUMED_MFU = 0.5
"""Share of the peak that training is planned at where nothing is measured."""
ASSUMED_ENCODER_MFU = 0.4
"""The same of the VQ-GAN's encoder in tokenization."""


def peak_flop_per_s(device_name: str) -> float | None:
    """The dense bf16 peak of a GPU by its name; None where it is not in the table."""
    found = _named(device_name, PEAK_TFLOP_PER_S)
    return found * 1e12 if found else None


def memory_bytes(device_name: str) -> int | None:
    """The memory of a GPU by its name; None where it is not in the table, or the name has another size."""
    found = _named(device_name, MEMORY_GB)
    sizes = {word for word in _words(device_name) if word.endswith("GB") and word[:-2].isdigit()}
    return int(found * 1e9) if found and sizes <= {f"{found}GB"} else None


def _named(device_name: str, table: dict[str, Any]) -> Any:
    return next((value for part, value in table.items() if set(part.split()) <= set(_words(device_name))), None)


def _words(device_name: str) -> list[str]:
    return device_name.replace("-", " ").split()
