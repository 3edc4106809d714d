"""The common inputs of the parts: the device, the sizes, models with random weights, and steps as the loader makes
them."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from pipeline.architecture.geometries import with_layers
from pipeline.architecture.mars_config import MarsConfig
from pipeline.config.benchmarks import GpuSettings
from pipeline.config.recipe import Recipe
from pipeline.config.stage import MAIN, Source, StageConfig
from pipeline.config.tasks import Kind
from pipeline.config.zero import ZeroConfig
from pipeline.data.batch_plan import StagePlan
from pipeline.data.collate import MicroBatch
from pipeline.data.rows import Caption, Row
from pipeline.data.sample_order import MixedOrder, SampleOrder
from pipeline.data.sequences import SequenceBuilder
from pipeline.model.mars import MarsForCausalLM
from pipeline.planning.recipe_plan import planned_config, sample_lengths
from pipeline.planning.work import INSTRUCTION_IDS, SampleLengths
from pipeline.runtime.rank import Rank
from pipeline.training.validation import RowsInMemory

SMALL = MarsConfig(
    text_vocab_size=512,
    codebook_size=256,
    hidden_size=64,
    intermediate_size=176,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
)
"""The model on a CPU, where the parts only show that they run."""
SMALL_LENGTHS = SampleLengths(num_codes=16, num_high_codes=64, mean_caption_ids=6, max_caption_ids=12)
SMALL_RANKS, SMALL_BATCH, SMALL_SEQ_LEN, SMALL_GROUP = 4, 32, 64, 16
SPREAD = 0.8
"""Standard deviation of the logarithm of a caption's length."""
MicroSteps = list[list[MicroBatch]]


@dataclass(frozen=True)
class GpuBench:
    """The benchmark on one device.

    Attributes:
        settings: the job's settings.
        recipe: the recipe, of which the first stage is measured.
        device: the first GPU, or the CPU.
        config: the recipe's model; `SMALL` on a CPU.
        stage: the recipe's first stage; on a CPU with few samples, sdpa and nothing compiled.
        zero: the recipe's partitioning; float32 on a CPU.
        lengths: lengths of the samples.
        ranks: ranks of the training.
    """

    settings: GpuSettings
    recipe: Recipe
    device: torch.device
    config: MarsConfig
    stage: StageConfig
    zero: ZeroConfig
    lengths: SampleLengths
    ranks: int

    @classmethod
    def of(cls, settings: GpuSettings, recipe: Recipe) -> "GpuBench":
        """The recipe's sizes if there is a GPU, else the small form."""
        stage = replace(recipe.stages[0], sources={MAIN: Source()})
        if torch.cuda.is_available():
            config = MarsConfig(**asdict(planned_config(recipe)))
            lengths = sample_lengths(recipe)
            return cls(settings, recipe, torch.device("cuda", 0), config, stage, recipe.zero, lengths, settings.ranks)
        torch.set_num_threads(1)  # so small products only wait for one another on more
        stage = replace(
            stage,
            global_batch_size=SMALL_BATCH,
            seq_len=SMALL_SEQ_LEN,
            row_multiple=8,
            attention="sdpa",
            compile_layers=False,
        )
        zero = replace(recipe.zero, dtype="float32")
        return cls(settings, recipe, torch.device("cpu"), SMALL, stage, zero, SMALL_LENGTHS, SMALL_RANKS)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of weights and computation."""
        dtype: torch.dtype = getattr(torch, self.zero.dtype)
        return dtype

    @property
    def rank(self) -> Rank:
        """This process as the first rank. Where all ranks are on one machine, DeepSpeed waits for shared memory."""
        return Rank(0, self.ranks, 0, min(self.settings.ranks_per_node, self.ranks - 1))

    @property
    def builder(self) -> SequenceBuilder:
        instructions = {language: [0] * count for language, count in INSTRUCTION_IDS.items()}
        return SequenceBuilder(self.config.vocabulary, instructions, 0)

    def caption_ids(self, random: np.random.Generator) -> list[int]:
        """A random caption; its length is lognormal around the mean, as on the web."""
        drawn = random.lognormal(np.log(self.lengths.mean_caption_ids) - SPREAD**2 / 2, SPREAD)
        count = int(np.clip(round(drawn), 1, self.lengths.max_caption_ids))
        ids: list[int] = random.integers(0, self.config.text_vocab_size, count).tolist()
        return ids

    def codes(self, random: np.random.Generator, count: int) -> np.ndarray:
        """Random codes, uint16."""
        return random.integers(0, self.config.codebook_size, count).astype(np.uint16)

    def plan(self, stage: StageConfig) -> StagePlan:
        """The loader's plan of the stage on random rows in memory."""
        random = np.random.default_rng(0)
        rows = [
            Row(
                str(number),
                self.codes(random, self.lengths.num_codes),
                None,
                [Caption(language, self.caption_ids(random), 1) for language in stage.language_shares],
            )
            for number in range(2 * stage.global_batch_size)
        ]
        order = MixedOrder([SampleOrder(np.asarray([len(rows)]), 0, 1, 1)], [1.0], stage.global_batch_size)
        return StagePlan(stage, 1, 0, order, [RowsInMemory(rows)], self.builder)

    def steps(self, stage: StageConfig, count: int) -> list[MicroSteps]:
        """The first rank's micro-steps of some steps, on the device. Their lengths differ."""
        plan = self.plan(stage)
        made = [plan.step(number, 0, self.ranks).micro_steps for number in range(count)]
        return [[[batch.to(self.device) for batch in batches] for batches in micro_steps] for micro_steps in made]

    def model(self, stage: StageConfig, layers: int = 0, dtype: torch.dtype | None = None) -> MarsForCausalLM:
        """A model with random weights, set up as a stage's; `layers` in place of all if given."""
        torch.manual_seed(0)
        config = with_layers(self.config, layers) if layers else self.config
        with self.device:
            model: MarsForCausalLM = AutoModelForCausalLM.from_config(config, dtype=dtype or self.dtype)
        model.freeze_language_expert().train()
        model.set_attn_implementation(stage.attention)
        if stage.checkpoint_every_layers:
            model.model.checkpoint_every = stage.checkpoint_every_layers
            model.gradient_checkpointing_enable()
        if stage.compile_layers:
            model.model.compile_layers()
        return model

    def synchronise(self) -> None:
        """Waits for the device."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def seconds(self, run: Callable[[], object], rounds: int, warmup: int = 1) -> list[float]:
        """Seconds of each of `rounds` runs, after some that do not count."""
        taken = []
        for number in range(warmup + rounds):
            self.synchronise()
            started = time.perf_counter()
            run()
            self.synchronise()
            if number >= warmup:
                taken.append(time.perf_counter() - started)
        return taken


def first_of_kind(steps: list[MicroSteps], kind: Kind) -> MicroBatch:
    """The first micro-batch of a kind."""
    return next(batch for micro_steps in steps for batches in micro_steps for batch in batches if batch.kind is kind)
