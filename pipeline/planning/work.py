"""The expected work of a stage, from its settings alone: tokens, FLOP, rows and micro-steps.

Samples are built, packed and counted by the same code as in training. Only their lengths are assumed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from pipeline.config.model_sizes import ModelSizes
from pipeline.config.sample_limits import LONGEST_FRAME, longest_sample
from pipeline.config.stage import StageConfig
from pipeline.config.tasks import SHARED_KINDS, Kind
from pipeline.config.vocabulary import Role
from pipeline.data.batch_work import count_sample
from pipeline.data.packing import deal_rows, pack_rows
from pipeline.data.sequences import PLAIN_SHARE, SampleParts, Sequence, SequenceBuilder
from pipeline.planning.flops import Flop, flop_of, recomputed_flop_of

Documents = Mapping[str, tuple[int, int]]
"""Mean pictures and mean text ids of a document, by corpus of interleaved documents."""
NO_DOCUMENTS: Documents = MappingProxyType({})

INSTRUCTION_IDS = {"en": 7, "zh": 6}
"""Number of ids of each captioning instruction in Qwen's vocabulary."""


@dataclass(frozen=True)
class SampleLengths:
    """The assumed lengths of a corpus's samples.

    Attributes:
        num_codes: codes of a picture.
        num_high_codes: codes of its high resolution; 0 if there is none.
        mean_caption_ids, max_caption_ids: mean and maximum ids of a caption.
    """

    num_codes: int
    num_high_codes: int
    mean_caption_ids: int
    max_caption_ids: int

    def longest(self, high_resolution: bool) -> int:
        """Maximum tokens of a sample."""
        return longest_sample(self.num_codes, self.num_high_codes if high_resolution else 0, self.max_caption_ids)


@dataclass(frozen=True)
class KindWork:
    """The expected work of one kind's samples in a step, over all ranks.

    Attributes:
        kind: kind of the samples.
        samples: samples per step.
        text_tokens, visual_tokens: tokens per sample.
        flop: FLOP per sample, as counted by `flop_of`.
        recomputed_flop: additional FLOP of recomputation per sample.
        rows: rows per step, a multiple of the ranks.
        rows_per_rank: rows per step and rank.
        micro_steps: micro-steps per step, of `micro_batch_size` rows per rank; the last may have fewer.
        row_text_length, row_visual_length: lengths of the tensors that hold the fullest row, with padding.
        row_labels: labels of the row with the most labels.
        padding_fraction: share of padding if every row were as long as the fullest: from rows of uneven length, and
            rows without a sample.
    """

    kind: Kind
    samples: float
    text_tokens: float
    visual_tokens: float
    flop: Flop
    recomputed_flop: float
    rows: int
    rows_per_rank: int
    micro_steps: int
    row_text_length: int
    row_visual_length: int
    row_labels: int
    padding_fraction: float

    @property
    def tokens(self) -> float:
        """Tokens of both modalities per sample."""
        return self.text_tokens + self.visual_tokens


@dataclass(frozen=True)
class StageWork:
    """A stage's expected work. A micro-step holds rows of every kind that still has rows in the step."""

    kinds: tuple[KindWork, ...]
    steps: int
    global_batch_size: int

    @property
    def grad_accum_steps(self) -> int:
        return max(kind.micro_steps for kind in self.kinds)

    @property
    def samples(self) -> int:
        return self.steps * self.global_batch_size

    @property
    def tokens(self) -> float:
        return self.steps * sum(kind.samples * kind.tokens for kind in self.kinds)

    @property
    def flop(self) -> float:
        """FLOP of the stage without recomputation."""
        return self.steps * sum(kind.samples * kind.flop.total for kind in self.kinds)

    @property
    def recomputed_flop(self) -> float:
        """FLOP of recomputation, in addition to `flop`."""
        return self.steps * sum(kind.samples * kind.recomputed_flop for kind in self.kinds)


def stage_work(
    config: ModelSizes,
    stage: StageConfig,
    lengths: SampleLengths,
    world_size: int,
    documents: Documents = NO_DOCUMENTS,
) -> StageWork:
    """Computes the expected work of a stage with valid settings (see `StageConfig.problems`).

    Every caption has the mean length: attention, the only cost that is not linear in it, is a small part. Every
    document has the mean length, too; `documents` lists the sources that consist of documents.

    Raises:
        InputError: a sample does not fit into `seq_len`.
        ValueError: K does not divide the high-resolution codes.
    """
    found = expected_samples(config, stage, lengths, documents)
    samples = [(share, sequence) for share, sequence in found if share > 0]
    works = []
    for kind in Kind:
        of_kind = [(share, sequence) for share, sequence in samples if sequence.kind is kind]
        if of_kind:
            works.append(_kind_work(config, stage, lengths, world_size, of_kind))
    return StageWork(tuple(works), stage.steps, stage.global_batch_size)


def expected_samples(
    config: ModelSizes, stage: StageConfig, lengths: SampleLengths, documents: Documents = NO_DOCUMENTS
) -> list[tuple[float, Sequence]]:
    """Returns typical samples, each with its share of the stage's samples.

    They are samples of each task and language with a whole, a cropped and no caption, and a document of each source of
    documents. A cropped caption has half of the ids.
    """
    instructions = {language: [0] * count for language, count in INSTRUCTION_IDS.items()}
    builder = SequenceBuilder(config.vocabulary, instructions, 0)
    codes, high = np.zeros(lengths.num_codes, np.uint16), np.zeros(lengths.num_high_codes, np.uint16)
    caption, role = [0] * lengths.mean_caption_ids, Role[stage.high_resolution_role.upper()]
    samples, weights = [], {name: source.weight for name, source in stage.sources.items()}
    for name, (pictures, text_ids) in documents.items():
        if name in weights:
            texts = [[0] * len(part) for part in np.array_split(np.zeros(text_ids), pictures)]
            segments = [part for text in texts for part in (text, codes)]
            samples.append((weights[name] / sum(weights.values()), builder.interleaved(segments)))
    of_pictures = 1 - sum(share for share, _ in samples)
    for task, task_share in stage.task_shares.items():
        kind, share = SHARED_KINDS[task], task_share * of_pictures
        if kind.traits.has_instruction:
            for language, part in stage.language_shares.items():
                samples.append((share * part, builder.sample(kind, SampleParts(caption, language, codes, high))))
            continue
        for ids, part, plain_position in _caption_draws(stage, caption):
            parts = SampleParts(ids, "", codes, high, None, plain_position, role, stage.high_resolution_group)
            samples.append((share * part, builder.sample(kind, parts)))
    return samples


def _caption_draws(stage: StageConfig, caption: list[int]) -> Iterator[tuple[list[int], float, int | None]]:
    """Yields the forms that `StagePlan` gives to a caption before a picture: ids, share of samples, plain position."""
    cropped = stage.caption_crop if len(caption) > 1 else 0.0
    for ids, share in (
        (caption, (1 - stage.guidance_dropout) * (1 - cropped)),
        (caption[: (len(caption) + 1) // 2], (1 - stage.guidance_dropout) * cropped),
        ([], stage.guidance_dropout),
    ):
        plain = PLAIN_SHARE if len(ids) > 1 else 0.0
        for plain_position, part in ((0, share * plain), (None, share * (1 - plain))):
            if part:
                yield ids, part, plain_position


def _kind_work(
    config: ModelSizes,
    stage: StageConfig,
    lengths: SampleLengths,
    world_size: int,
    variants: list[tuple[float, Sequence]],
) -> KindWork:
    kind, share = variants[0][1].kind, sum(part for part, _ in variants)
    batches = [count_sample(sequence, config.vocabulary) for _, sequence in variants]
    parts = [part / share for part, _ in variants]
    flops = [flop_of(batch, config, stage.normalisation) for batch in batches]
    again = [recomputed_flop_of(batch, config, stage.checkpoint_every_layers) for batch in batches]

    samples = []
    for batch, (part, _) in zip(batches, variants, strict=True):
        samples += [batch] * round(part * stage.global_batch_size)
    samples = samples or batches[:1]
    rows = pack_rows([batch.work.tokens for batch in samples], stage.seq_len, world_size)
    dealt = deal_rows([len(row) for row in rows], world_size, stage.micro_batch_size)
    # A row holds at least one sample, which may have the longest caption.
    longest_text = lengths.max_caption_ids + (LONGEST_FRAME if kind.traits.has_instruction else 0)
    text = max(longest_text, *(sum(samples[index].work.text_tokens for index in row) for row in rows))
    visual = max(sum(samples[index].work.visual_tokens for index in row) for row in rows)
    padded = [-(-length // stage.row_multiple) * stage.row_multiple for length in (text, visual)]
    fullest = max(sum(samples[index].work.tokens for index in row) for row in rows)
    labels = [batch.num_text_labels + batch.num_code_labels for batch in samples]
    return KindWork(
        kind=kind,
        samples=share * stage.global_batch_size,
        text_tokens=_mean([batch.work.text_tokens for batch in batches], parts),
        visual_tokens=_mean([batch.work.visual_tokens for batch in batches], parts),
        flop=Flop(_mean([flop.matrices for flop in flops], parts), _mean([flop.attention for flop in flops], parts)),
        recomputed_flop=_mean(again, parts),
        rows=len(rows),
        rows_per_rank=len(rows) // world_size,
        micro_steps=len(dealt),
        row_text_length=padded[0],
        row_visual_length=padded[1],
        row_labels=max(sum(labels[index] for index in row) for row in rows),
        padding_fraction=1 - sum(batch.work.tokens for batch in samples) / (len(rows) * fullest),
    )


def _mean(values: list[float] | list[int], parts: list[float]) -> float:
    return float(sum(value * part for value, part in zip(values, parts, strict=True)))
