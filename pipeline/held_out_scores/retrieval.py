"""Retrieval by likelihood: which of N pictures belongs to a caption, and which of N captions to a picture.

A caption chooses the picture x with the highest log p(x | caption) - log p(x), where p(x) is the model's own, without a
caption; a picture chooses the caption with the highest log p(x | caption). Chance is 1 / N.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.config.tasks import Task
from pipeline.data.rows import Caption, Row
from pipeline.data.sequences import SequenceBuilder
from pipeline.held_out_scores.losses import sample_nats
from pipeline.training.objective import Objective


@dataclass(frozen=True)
class Retrieval:
    """The shares that were right.

    Attributes:
        pairs: N, pictures and captions.
        picture_of_caption, caption_of_picture: shares of the captions whose own picture was chosen, and of the pictures
            whose own caption was.
    """

    pairs: int
    picture_of_caption: float
    caption_of_picture: float


def retrieval(
    objective: Objective, rows: Sequence[Row], language: str, count: int, builder: SequenceBuilder
) -> Retrieval | None:
    """Scores the first `count` rows whose captions in a language differ from each other, and whose codes do, too; None
    if there are fewer than two."""
    pairs = distinct_pairs(rows, language)[:count]
    if len(pairs) < 2:
        return None
    task = Task.TEXT_TO_IMAGE.value
    alone = sample_nats(objective, [builder.text_to_image([], row.codes) for row, _ in pairs])[:, task]
    given = np.stack(
        [
            sample_nats(objective, [builder.text_to_image(caption.ids, row.codes) for row, _ in pairs])[:, task]
            for _, caption in pairs
        ]
    )
    own = np.arange(len(pairs))
    pictures, captions = (given - alone).argmin(1), given.argmin(0)
    return Retrieval(len(pairs), float((pictures == own).mean()), float((captions == own).mean()))


def distinct_pairs(rows: Sequence[Row], language: str) -> list[tuple[Row, Caption]]:
    """Rows with their caption in the language; of those with equal captions, or equal codes, the first."""
    captions, codes, found = set(), set(), []
    for row in rows:
        caption = next((each for each in row.captions if each.language == language), None)
        if caption and tuple(caption.ids) not in captions and row.codes.tobytes() not in codes:
            captions.add(tuple(caption.ids))
            codes.add(row.codes.tobytes())
            found.append((row, caption))
    return found
