"""The inputs of a rank that trains one stage, and the model and plan made from them."""

from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.checkpoints.manifest import Checkpoint
from pipeline.config.model import ModelOptions
from pipeline.config.stage import StageConfig
from pipeline.config.vocabulary import JointVocabulary
from pipeline.config.zero import ZeroConfig
from pipeline.data.plan_inputs import PlanInputs
from pipeline.data.row_index import SourceRows
from pipeline.data.sequences import SequenceBuilder
from pipeline.errors import InputError
from pipeline.model.loading import base_sha256, load_initial_model
from pipeline.model.mars import MarsForCausalLM
from pipeline.runtime.transformers_private import attention_of
from pipeline.training.partitioned_load import load_partitioned
from pipeline.training.samples import SamplePrompts
from pipeline.weights.start_file import is_starting_model
from pipeline.weights.starting_model import StartOptions


@dataclass(frozen=True)
class StageRun:
    """Everything a rank needs to train one stage.

    Attributes:
        stage, stage_number, seed: the stage to train, and the seed of its sample order and random draws.
        zero: ZeRO partitioning.
        initial_model: folder of the frozen language expert, or of the starting model that `jobs/init_model.py` made
            from it.
        codebook_size: codebook size of the VQ-GAN.
        model_options: the recipe's model options.
        initial_checkpoint: last checkpoint of the previous stage, whose weights this one starts from.
        checkpoints: folder or URL of this stage's checkpoints.
        sources: token rows that the stage trains on.
        held_out: token rows that validation uses.
        instruction_ids, end_id: see `SequenceBuilder`.
        output: folder of the stage.
        recipe_sha256: hash of everything that must not change between attempts.
        extends_sha256: `recipe_sha256` of the stage's finished checkpoint, if that had fewer steps and equals this
            stage otherwise. Training goes on from it.
        samples: sample pictures to draw during training, or None.
        name: name of the run, as in `recipe/stage1`.
        trackers: see `pipeline.training.trackers`.
        verify_only: run the next step twice and compare, instead of training.
        loader_process: build samples in a process beside the rank's, see `ScalingConfig.loader`.
        async_validation: the loop neither validates nor draws, but saves when either is due; see `ScalingConfig`.
    """

    stage: StageConfig
    stage_number: int
    seed: int
    zero: ZeroConfig
    initial_model: Path
    codebook_size: int
    model_options: ModelOptions
    initial_checkpoint: Checkpoint | None
    sources: tuple[SourceRows, ...]
    held_out: tuple[SourceRows, ...]
    instruction_ids: dict[str, list[int]]
    end_id: int
    output: Path
    checkpoints: str
    recipe_sha256: str
    samples: SamplePrompts | None = None
    name: str = ""
    trackers: tuple[str, ...] = ()
    verify_only: bool = False
    loader_process: bool = False
    extends_sha256: str = ""
    async_validation: bool = False


def starting_model(run: StageRun, device: torch.device) -> tuple[MarsForCausalLM, str]:
    """Returns the model set up to train, with its visual side as before any stage, and the hash of its language expert.

    Raises:
        InputError: the language expert or the stage's settings cannot be used.
    """
    if run.zero.zero_stage == 3 and is_starting_model(run.initial_model):
        wanted = StartOptions(run.codebook_size, run.model_options)
        model, language_expert_hash = load_partitioned(run.initial_model, wanted, run.stage, run.zero, device)
    else:
        model = load_initial_model(
            run.initial_model, run.codebook_size, getattr(torch, run.zero.dtype), run.model_options
        )
        language_expert_hash = base_sha256(model)
    if run.stage.checkpoint_every_layers:
        model.model.checkpoint_every = run.stage.checkpoint_every_layers
        model.gradient_checkpointing_enable()
    choose_kernels(model, run.stage)
    if run.zero.frozen_whole:
        model.to(device).keep_frozen_whole()
    return model, language_expert_hash


def choose_kernels(model: MarsForCausalLM, stage: StageConfig) -> None:
    """Lets the model compute attention and layers as the stage says.

    Raises:
        InputError: transformers does not know the attention function.
    """
    model.set_attn_implementation(stage.attention)
    if attention_of(model) != stage.attention:  # transformers would only warn
        raise InputError(f"this transformers does not let MARS train with attention {stage.attention!r}")
    if stage.compile_layers:
        model.model.compile_layers()


def plan_inputs(run: StageRun, vocabulary: JointVocabulary) -> PlanInputs:
    """Returns what the stage's plan is made from."""
    builder = SequenceBuilder(vocabulary, run.instruction_ids, run.end_id)
    return PlanInputs(run.stage, run.stage_number, run.seed, run.sources, builder)
