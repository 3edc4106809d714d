"""The one table of GPU types. To add one, add a line to `GPU_TYPES`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GpuType:
    """A GPU type, from NVIDIA's data sheet of the card.

    Attributes:
        name: words that the names of such devices contain, as in `H100 PCIe`.
        peak_tflop_per_s: dense bf16 peak, TFLOP/s; half of what a data sheet states with sparsity. 0 if the type has no
            bf16 arithmetic.
        memory_gb: available memory sizes, in 10^9 bytes. No driver reports less.
        memory_gb_per_s: bandwidth of its memory, 10^9 bytes/s, for each of the sizes.
        peer_gb_per_s: bandwidth to the other GPUs of its node in one direction, 10^9 bytes/s: half of NVLink's figure,
            which counts both directions, or half of PCIe's for cards without NVLink.
    """

    name: str
    peak_tflop_per_s: float
    memory_gb: tuple[int, ...]
    memory_gb_per_s: tuple[int, ...]
    peer_gb_per_s: int

    @property
    def peak_flop_per_s(self) -> float:
        """The dense bf16 peak, FLOP/s."""
        return self.peak_tflop_per_s * 1e12

    @property
    def full_names(self) -> list[str]:
        """One name per memory size, as in `A100-40GB`; the name alone if there is only one size."""
        name = self.name.replace(" ", "-")
        return [f"{name}-{size}GB" for size in self.memory_gb] if len(self.memory_gb) > 1 else [name]


A100 = GpuType("A100", 312.0, (40, 80), (1555, 2039), 300)
GPU_TYPES = (
    A100,
    GpuType("H100 PCIe", 756.5, (80,), (2000,), 64),
    GpuType("H100 NVL", 835.5, (94,), (3900,), 300),
    GpuType("H100", 989.5, (80,), (3350,), 450),
    GpuType("H200 NVL", 835.5, (141,), (4800,), 450),
    GpuType("H200", 989.5, (141,), (4800,), 450),
    GpuType("B200", 2250.0, (180,), (8000,), 900),  # HGX B200's sheet, an eighth of it
    GpuType("L40S", 362.0, (48,), (864,), 32),
    GpuType("L4", 121.0, (24,), (300,), 32),
    GpuType("A10G", 70.0, (24,), (600,), 32),  # AWS's own card and sheet
    GpuType("A10", 125.0, (24,), (600,), 32),
    GpuType("V100", 0.0, (16, 32), (900, 900), 150),
)
"""All known types. A device has the first type whose words are all in the device's name."""
MODEL_NAMES = tuple(dict.fromkeys(gpu.name.split()[0] for gpu in GPU_TYPES))
"""The first words of the known types' names."""


def gpu_type_of(device_name: str) -> GpuType | None:
    """Returns the type of a device by its name, as in `A100-80GB` or `NVIDIA A100-SXM4-80GB`, or None if unknown."""
    words = set(_words(device_name))
    return next((gpu for gpu in GPU_TYPES if set(gpu.name.split()) <= words), None)


ASSUMED_MFU = 0.5
"""Share of the peak that plans assume for training if nothing was measured."""
ASSUMED_ENCODER_MFU = 0.4
"""Share of the peak that plans assume for the VQ-GAN's encoder in tokenization."""


def peak_flop_per_s(device_name: str) -> float | None:
    """Returns the dense bf16 peak of a GPU by its name, or None if it is unknown or the GPU has no bf16."""
    gpu = gpu_type_of(device_name)
    return (gpu.peak_flop_per_s or None) if gpu else None


def memory_bytes(device_name: str) -> int | None:
    """Returns the memory of a GPU by its name.

    None if the type is unknown, if the name has a size that the type does not have, or if the type has several sizes
    and the name does not give one.
    """
    fitting = _sizes(device_name)
    return int(fitting[0][0] * 1e9) if len(fitting) == 1 else None


def memory_bytes_per_s(device_name: str) -> float | None:
    """Returns the bandwidth of a GPU's memory by its name, or None where `memory_bytes` does."""
    fitting = _sizes(device_name)
    return fitting[0][1] * 1e9 if len(fitting) == 1 else None


def _sizes(device_name: str) -> list[tuple[int, int]]:
    """The memory sizes, and their bandwidths, of a type that suit a device's name."""
    gpu = gpu_type_of(device_name)
    if gpu is None:
        return []
    named = {word for word in _words(device_name) if word.endswith("GB") and word[:-2].isdigit()}
    sizes = zip(gpu.memory_gb, gpu.memory_gb_per_s, strict=True)
    return [(size, speed) for size, speed in sizes if named <= {f"{size}GB"}]


def _words(device_name: str) -> list[str]:
    return device_name.replace("-", " ").split()
