"""FlexAttention's kernels compile for the GPUs of the recipes: shown without one, where torch is built with CUDA."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.checkout import CHECKOUT
from tests.support.flex_kernels import GPUS


@pytest.mark.long
@pytest.mark.skipif(torch.version.cuda is None, reason="this torch is built without CUDA; PyPI's for Linux is with it")
@pytest.mark.parametrize(("heads", "key_heads"), [(32, 32), (12, 2)], ids=["mars_7b's heads", "mars_1b's heads"])
@pytest.mark.parametrize("gpu", GPUS)
def test_attention_compiles_for_a_gpu_and_fits_into_its_shared_memory(
    gpu: str, heads: int, key_heads: int, tmp_path: Path
) -> None:
    """`python -m pytest tests/pipeline/model/test_flex_kernels.py -m long`"""
    caches = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "torch"), "TRITON_CACHE_DIR": str(tmp_path / "triton")}
    caches |= {"TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.flex_kernels", gpu, str(heads), str(key_heads)],
        cwd=CHECKOUT,
        env=os.environ | caches,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    kernels = [json.loads(line) for line in done.stdout.splitlines()]
    multiplying = [kernel for kernel in kernels if kernel["tensor_cores"]]
    assert len(multiplying) == 2, f"no kernel each for the forward and the backward pass: {kernels}"
    for kernel in kernels:
        assert kernel["target"].startswith(f"sm_{GPUS[gpu].number}")
        assert 0 < kernel["shared_bytes"] <= GPUS[gpu].shared_bytes
        assert kernel["registers"] <= 255 and kernel["cubin_bytes"] > 1000
