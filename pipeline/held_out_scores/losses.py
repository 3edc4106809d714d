"""The loss of each sample by itself, in nats by task."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from pipeline.config.recipe import Recipe
from pipeline.config.tasks import CAPTION_BYTES, SHARED_KINDS, Kind, Task
from pipeline.config.vocabulary import Role
from pipeline.data.collate import collate
from pipeline.data.rows import Caption, Row
from pipeline.data.sequences import SampleParts, SequenceBuilder
from pipeline.data.sequences import Sequence as Sample
from pipeline.training.objective import Objective

BATCH = 16
"""Samples of one forward pass, a row each."""
ROW_MULTIPLE = 8


@torch.no_grad()
def sample_nats(objective: Objective, samples: Sequence[Sample]) -> np.ndarray:
    """The summed loss of each sample by task, nats, float64 [samples, tasks]. All samples are of one kind."""
    device, nats = objective.mars.head.visual_weight.device, np.zeros((len(samples), len(Task)))
    for start in range(0, len(samples), BATCH):
        part = samples[start : start + BATCH]
        vocabulary, even = objective.mars.config.vocabulary, [1.0] * len(Task)
        batch = collate(part[0].kind, [[one] for one in part], vocabulary, even, ROW_MULTIPLE).to(device)
        (states,) = objective.hidden_states([batch])
        hidden = torch.cat(states, dim=1)
        flat, row_length = hidden.flatten(0, 1), hidden.shape[1]
        for state, labels in objective.states(batch):
            if len(labels.index):
                _, losses = objective.mars.head(flat[labels.index], state, labels.ids, labels.weights)
                places = (start + labels.index // row_length).cpu().numpy(), labels.tasks.cpu().numpy()
                np.add.at(nats, places, losses.double().cpu().numpy())
    return nats


def bits_by_task_and_language(
    objective: Objective, recipe: Recipe, rows: Sequence[Row], builder: SequenceBuilder
) -> dict[str, float]:
    """The figures of validation, over these rows: `TASK/LANGUAGE/bits_a_code` and the like.

    The tasks are those that some stage trains, the languages those that a row has a caption in. Each picture counts
    once with its first caption in the language.
    """
    figures = {}
    for task, kind in SHARED_KINDS.items():
        if not any(stage.task_shares.get(task) for stage in recipe.stages):
            continue
        for language in builder.instruction_ids:
            pairs = [*_with_captions(rows, language, kind)]
            if not pairs:
                continue
            samples = [_sample(builder, kind, row, caption, recipe) for row, caption in pairs]
            nats = sample_nats(objective, samples).sum(0)
            num_bytes = sum(caption.num_bytes for _, caption in pairs)
            for name, measured in kind.traits.measures:
                labels = sum(int((sample.label_tasks == measured.value).sum()) for sample in samples)
                amount = num_bytes if name == CAPTION_BYTES else labels
                figures[f"{task}/{language}/{name}"] = float(nats[measured.value] / np.log(2) / amount)
    return figures


def frequency_bits(rows: Sequence[Row], code_counts: np.ndarray) -> float:
    """Bits a code of a model that knows the codes' frequencies alone: each count and 1 over their sum."""
    shares = (code_counts + 1) / (code_counts.sum() + len(code_counts))
    return float(-np.log2(shares[np.concatenate([row.codes for row in rows])]).mean())


def _with_captions(rows: Sequence[Row], language: str, kind: Kind) -> Iterator[tuple[Row, Caption]]:
    for row in rows:
        caption = next((each for each in row.captions if each.language == language), None)
        if caption and (row.high_codes is not None or not kind.traits.needs_high_codes):
            yield row, caption


def _sample(builder: SequenceBuilder, kind: Kind, row: Row, caption: Caption, recipe: Recipe) -> Sample:
    stage = recipe.stages[-1]
    parts = SampleParts(
        caption.ids,
        caption.language,
        row.codes,
        row.high_codes,
        role=Role[stage.high_resolution_role.upper()],
        group_size=stage.high_resolution_group,
    )
    return builder.sample(kind, parts)
