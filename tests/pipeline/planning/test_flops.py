"""The FLOP that MFU and the ledger rest on are those that torch counts."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.architecture.geometries import GEOMETRIES
from pipeline.config.gpus import peak_flop_per_s
from pipeline.config.tasks import Kind
from pipeline.config.vocabulary import NORMALISATIONS, Role
from pipeline.data.collate import MicroBatch, collate
from pipeline.data.sequences import SequenceBuilder
from pipeline.model.mars import MarsForCausalLM
from pipeline.planning.flops import count_parameters, expert_parameters, flop_of
from pipeline.training.objective import Objective
from tests.support.objective import WEIGHTS
from tests.support.small_models import builder_of, small_config

CODES = np.arange(16)


@pytest.fixture(params=[(2, False), (4, False), (4, True)], ids=["grouped heads", "plain heads", "o_proj shared"])
def large(request: pytest.FixtureRequest) -> MarsForCausalLM:
    """Layers enough that the first one's inputs, which need no gradient, do not count."""
    num_key_value_heads, shared = request.param
    changes = dict(hidden_size=64, intermediate_size=160, num_hidden_layers=12)
    config = small_config(num_key_value_heads=num_key_value_heads, shared_output_projection=shared, **changes)
    torch.manual_seed(0)
    return MarsForCausalLM(config).freeze_language_expert()


@pytest.fixture
def builder(large: MarsForCausalLM) -> SequenceBuilder:
    return builder_of(large)


def batches(builder: SequenceBuilder) -> Iterator[MicroBatch]:
    """Rows that fill their streams exactly: torch counts padding, too."""
    image = builder.text_to_image([*range(8)], CODES)
    caption = builder.captioning(CODES[:14], [21, 22, 23, 24, 25], "en")
    high = builder.high_resolution([*range(8)], CODES[:13], CODES, Role.HIGH_1, 1)
    yield collate(Kind.TEXT_TO_IMAGE, [[image], [image]], builder.vocabulary, WEIGHTS, 8)
    yield collate(Kind.CAPTIONING, [[caption], [caption]], builder.vocabulary, WEIGHTS, 8)
    yield collate(Kind.HIGH_RESOLUTION, [[high], [high]], builder.vocabulary, WEIGHTS, 1)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_matrix_products_agree_with_torchs_counter(
    large: MarsForCausalLM, builder: SequenceBuilder, normalisation: str
) -> None:
    large.set_attn_implementation("sdpa")  # of which torch's counter counts nothing on a CPU
    for batch in batches(builder):
        assert batch.work.tokens == batch.work.padded_tokens
        with FlopCounterMode(display=False) as counter:
            Objective(large, normalisation)([batch]).loss.backward()
        assert flop_of(batch, large.config, normalisation).matrices == pytest.approx(
            counter.get_total_flops(), rel=0.02
        )


def test_attention_counts_the_pairs_that_the_mask_lets_see_each_other(
    large: MarsForCausalLM, builder: SequenceBuilder
) -> None:
    """Eager attention's two products over all pairs, less those that the mask hides."""
    for batch in batches(builder):
        totals = {}
        for attention in ("sdpa", "eager"):
            large.set_attn_implementation(attention)
            with FlopCounterMode(display=False) as counter:
                Objective(large)([batch]).loss.backward()
            totals[attention] = counter.get_total_flops()
        of_all_pairs = totals["eager"] - totals["sdpa"]
        (rows, text), visual = batch.text.ids.shape, batch.visual.ids.shape[1]
        pair = 4 * large.config.hidden_size * large.config.num_hidden_layers
        if batch.kind.has_text_prefix:
            assert of_all_pairs == pair * rows * (text * text + 3 * visual * (text + visual))
        else:
            assert of_all_pairs == 3 * pair * rows * (text + visual) ** 2
        work, segments = batch.work, batch.text.places.followed_by(batch.visual.places)
        same = segments.segments[:, :, None] == segments.segments[:, None, :]
        visible = (same & (segments.groups[:, None, :] <= segments.groups[:, :, None])).sum((0, 2))
        assert (work.text_pairs, work.visual_pairs) == (visible[:text].sum(), visible[text:].sum())
        factor = 1 if batch.kind.has_text_prefix else 3
        assert flop_of(batch, large.config).attention == pair * (factor * work.text_pairs + 3 * work.visual_pairs)


def test_qwen_7bs_geometry_has_the_papers_sizes() -> None:
    config = GEOMETRIES["qwen_7b"]
    counts = count_parameters(config)
    assert config.vocab_size == 160_136
    assert 6.4e9 <= counts.trainable <= 7.3e9
    assert 13.6e9 <= counts.total <= 14.6e9
    assert counts.active == pytest.approx(expert_parameters(config), rel=0.02)


def test_a_gpus_peak_is_found_by_its_name() -> None:
    assert peak_flop_per_s("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flop_per_s("NVIDIA H100 80GB HBM3") == 989.5e12
    assert peak_flop_per_s("NVIDIA H100 PCIe") == 756.5e12
    assert peak_flop_per_s("NVIDIA A10G") == 70e12
    assert peak_flop_per_s("Some card") is None
