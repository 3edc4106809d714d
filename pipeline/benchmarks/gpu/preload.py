"""Imports for the process from which the parts are forked. None of them may initialize CUDA, which does not survive a
fork. DeepSpeed asks for the device when it is imported, so it is imported here only where there is none."""

import gc
import os
from importlib.util import find_spec

import torch
import transformers.models.qwen2.modeling_qwen2  # noqa: F401

import pipeline.benchmarks.gpu.bench
import pipeline.benchmarks.step  # noqa: F401

if not torch.cuda.is_available() and find_spec("deepspeed"):
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed  # noqa: F401

gc.freeze()  # a collection in a part skips imported objects
