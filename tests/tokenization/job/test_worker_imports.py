"""What the processes of tokenization import: a node has many readers and writers, and each pays for its imports."""

import json
import subprocess
import sys

import pytest

from tests.support.checkout import CHECKOUT

SHOWN = "import json, sys, tokenization.job.{module}; print(json.dumps(sorted(sys.modules)))"


@pytest.mark.slow
@pytest.mark.parametrize("module", ["reader", "writer", "run"])
def test_readers_writers_and_the_driver_import_no_torch(module: str) -> None:
    """With torch, each would take four seconds of CPU to start, and 300 MB more of memory. The driver takes what is
    known of the VQ-GAN and the vocabulary from the run, so that it starts Ray and the actors at once."""
    words = [sys.executable, "-c", SHOWN.format(module=module)]
    done = subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert not {"torch", "diffusers", "deepspeed", "transformers"} & set(json.loads(done.stdout))


@pytest.mark.slow
def test_an_encoder_loads_its_vqgan_without_diffusers_and_torchs_compiler() -> None:
    """Each takes seconds, which the first picture would wait for."""
    loads = "import json, sys; from tokenization.vqgan.formats import load_vqgan; load_vqgan({folder!r})"
    folder = str(CHECKOUT / "tokenization" / "vqgan" / "openmoji_vqgan")
    words = [sys.executable, "-c", f"{loads.format(folder=folder)}; print(json.dumps(sorted(sys.modules)))"]
    done = subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    imported = set(json.loads(done.stdout))
    assert "torch" in imported and not {"diffusers", "torch._dynamo"} & imported
