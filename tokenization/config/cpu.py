"""The dtype that this machine's CPU computes fastest with."""

from functools import cache
from pathlib import Path

CPU_FLAGS_FILE = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = {"avx512_bf16", "amx_tile"}
"""CPU flags, as named by the Linux kernel, of the instructions with which torch multiplies bfloat16 matrices."""


@cache
def fast_cpu_dtype() -> str:
    """`bfloat16` if this machine's CPU supports it (AVX512_BF16, AMX), else `float32`.

    Without this support bfloat16 takes 8 to 500 times as long (measured: an EPYC with AVX2, torch 2.13). torch reports
    the same, but importing it takes seconds.
    """
    try:
        lines = CPU_FLAGS_FILE.read_text().splitlines()
    except OSError:  # no Linux: no other system's processors that torch runs on have these instructions
        return "float32"
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return "bfloat16" if BFLOAT16_FLAGS & set(flags) else "float32"
