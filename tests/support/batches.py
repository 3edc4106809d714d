"""Micro-batches of every kind."""

import numpy as np

from pipeline.config.tasks import Kind
from pipeline.config.vocabulary import Role
from pipeline.data.collate import MicroBatch, collate
from pipeline.data.sequences import SequenceBuilder
from tests.support.small_models import CODEBOOK


def some_batches(builder: SequenceBuilder) -> list[MicroBatch]:
    codes = np.arange(9) % CODEBOOK
    images = [[builder.text_to_image([11, 12, 13], codes), builder.text_to_image([], codes[::-1])]]
    high = np.arange(16) % CODEBOOK
    highs = [[builder.high_resolution([14, 15], codes, high, Role.HIGH_1, 4)]]
    captions = [[builder.captioning(codes, [21, 22], "en"), builder.captioning(codes + 5, [23], "zh")]]
    weights = [0.1, 0.2, 0.05, 0.1]
    vocabulary = builder.vocabulary
    return [
        collate(Kind.TEXT_TO_IMAGE, images, vocabulary, weights, 8),
        collate(Kind.CAPTIONING, captions, vocabulary, weights, 8),
        collate(Kind.HIGH_RESOLUTION, highs, vocabulary, weights, 8),
    ]
