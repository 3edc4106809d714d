"""The inputs from which the plan of a stage is made. They can be sent to another process."""

from dataclasses import dataclass

from pipeline.config.stage import StageConfig
from pipeline.data.batch_plan import StagePlan
from pipeline.data.row_index import SourceRows
from pipeline.data.sample_order import MixedOrder, SampleOrder
from pipeline.data.sequences import SequenceBuilder
from pipeline.data.token_reader import TokenReader


@dataclass(frozen=True)
class PlanInputs:
    """The inputs of a stage's plan.

    Attributes:
        stage, stage_number, seed: the stage, and the seed of its sample order and random draws.
        sources: token rows that the stage trains on.
        builder: builds the sequences.
    """

    stage: StageConfig
    stage_number: int
    seed: int
    sources: tuple[SourceRows, ...]
    builder: SequenceBuilder

    def plan(self) -> StagePlan:
        """Makes the plan, with readers of its own."""
        stage, window = self.stage, self.stage.window_shards
        orders = [
            SampleOrder(source.index.counts, self.seed, self.stage_number, window, number)
            for number, source in enumerate(self.sources)
        ]
        mixed = MixedOrder(orders, [source.weight for source in self.sources], stage.global_batch_size)
        readers = [
            TokenReader(source.tokens, source.index, window + 1, stage.needs_high_codes, source.lengths, texts=False)
            for source in self.sources
        ]
        return StagePlan(stage, self.stage_number, self.seed, mixed, readers, self.builder)
