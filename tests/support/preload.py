"""What the forkserver imports before it forks ranks: all that a training imports, down to what DeepSpeed and transformers
import at their first use. A rank would need two seconds of CPU for it."""

import gc

import deepspeed.runtime.zero.muon.original_muon  # compiles with torch.compile, which imports torch's inductor
import deepspeed.runtime.zero.stage3
import tensorboard.backend.event_processing.event_accumulator
import torch.utils.tensorboard
import transformers.conversion_mapping
from transformers import Qwen2ForCausalLM

import pipeline.training.language_expert
import pipeline.training.loop
import tests.support.ranks  # noqa: F401

gc.freeze()  # a collection in a rank passes over what was imported, and copies no page of it
