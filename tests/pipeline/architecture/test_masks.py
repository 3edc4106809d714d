"""FlexAttention skips no pair that a mask has, and evaluates the mask nowhere else than torch's own blocks say."""

from dataclasses import fields

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask

from pipeline.architecture.mask_blocks import PADDING_SAMPLE
from pipeline.architecture.masks import PackedPositions, attention_mask, mask_blocks


def places(rows: list[list[tuple[int, int]]], group_size: int, length: int) -> PackedPositions:
    """Rows of samples, each with its number and its length, in groups of one and then of `group_size`."""
    numbers, groups = (torch.full((len(rows), length), value) for value in (PADDING_SAMPLE, 0))
    for row, samples in enumerate(rows):
        start = 0
        for sample, count in samples:
            numbers[row, start : start + count] = sample
            number = torch.arange(count)
            groups[row, start : start + count] = torch.where(number < 30, number, 30 + (number - 30) // group_size)
            start += count
    return PackedPositions(numbers, groups)


@pytest.mark.parametrize("group_size", [1, 16])
def test_the_blocks_are_those_that_torch_finds(group_size: int) -> None:
    text = places([[(0, 70), (1, 9)], [(0, 200)]], 1, 200)
    visual = places([[(0, 600), (1, 1)], [(0, 130), (1, 300)]], group_size, 704)
    for queries, keys in ((visual, text.followed_by(visual)), (text, text), (visual, visual)):

        def sees(row: Tensor, _: Tensor, query: Tensor, key: Tensor, q: PackedPositions = queries) -> Tensor:
            own, other = q.samples[row, query], keys.samples[row, key]  # noqa: B023
            return (own == other) & (keys.groups[row, key] <= q.groups[row, query])  # noqa: B023

        (rows, length), num_keys = queries.samples.shape, keys.samples.shape[1]
        expected = create_block_mask(sees, rows, None, length, num_keys, device="cpu")
        found = mask_blocks(queries, keys)
        for field in fields(found):
            mine, torchs = getattr(found, field.name), getattr(expected, field.name)
            assert mine.dtype == torchs.dtype and mine.stride() == torchs.stride(), field.name
            torch.testing.assert_close(mine, torchs)
        if queries is visual:
            full, partial = (int(each.sum()) for each in (found.full_kv_num_blocks, found.kv_num_blocks))
            assert full > 0 and partial > 0 and full + partial < rows * 36, "some blocks are whole, some empty"
        mask = attention_mask(queries, keys, "flex_attention", torch.float32, found)
        assert mask.seq_lengths == (length, num_keys) and mask.BLOCK_SIZE == expected.BLOCK_SIZE
