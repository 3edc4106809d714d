"""Imports for the forkserver before it forks ranks and jobs: what they need, including what DeepSpeed
and transformers import at first use. Otherwise each of them would spend seconds on it. Ray is not among them: it reads
its environment variables when it is imported, and each job has its own.
"""

import gc

import pandas  # noqa: F401
import pyarrow.parquet  # noqa: F401
import torch.utils.cpp_extension  # noqa: F401
from diffusers import VQModel  # noqa: F401
from transformers import AutoTokenizer, Qwen2ForCausalLM  # noqa: F401
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

import tests.support.ranks  # noqa: F401
from pipeline.runtime.deepspeed_private import import_deepspeed

import_deepspeed()
get_checkpoint_conversion_mapping("qwen2")  # transformers makes its table of conversions at first use

gc.freeze()  # a collection in a rank skips imported objects, and copies no page of them
