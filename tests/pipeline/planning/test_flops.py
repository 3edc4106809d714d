"""The FLOP that MFU and the ledger rest on are those that torch counts."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.architecture.geometries import GEOMETRIES
from pipeline.config.gpus import peak_flop_per_s
from pipeline.config.model_sizes import SIZES
from pipeline.config.tasks import Kind
from pipeline.config.vocabulary import NORMALISATIONS, Role
from pipeline.data.batch_work import count_sample
from pipeline.data.collate import MicroBatch, collate
from pipeline.data.sequences import SequenceBuilder
from pipeline.model.mars import MarsForCausalLM, is_trained
from pipeline.planning.flops import count_parameters, encoder_flop_of, expert_parameters, flop_of
from pipeline.training.objective import Objective
from tests.support.objective import WEIGHTS
from tests.support.small_models import builder_of, small_config
from tokenization.config.vqgan import OPEN_MUSE, VqganConfig
from tokenization.vqgan.model import build_vqgan

CODES = np.arange(16)


QWEN3 = dict(head_dim=24, query_key_norm=True, qkv_bias=False)
NORMED = dict(visual_query_key_norm=True)


@pytest.fixture(
    params=[(2, False, {}), (4, False, {}), (4, True, {}), (2, False, QWEN3), (4, True, QWEN3), (4, True, NORMED)],
    ids=["grouped heads", "plain heads", "o_proj shared", "Qwen3", "Qwen3, o_proj shared", "visual norms"],
)
def large(request: pytest.FixtureRequest) -> MarsForCausalLM:
    """Layers enough that the first one's inputs, which need no gradient, do not count."""
    num_key_value_heads, shared, qwen3 = request.param
    changes = dict(hidden_size=64, intermediate_size=160, num_hidden_layers=12) | qwen3
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


@pytest.mark.slow
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


@pytest.mark.slow
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
        pair = 4 * large.config.num_attention_heads * large.config.head_size * large.config.num_hidden_layers
        if batch.kind.has_text_prefix:
            assert of_all_pairs == pair * rows * (text * text + 3 * visual * (text + visual))
        else:
            assert of_all_pairs == 3 * pair * rows * (text + visual) ** 2
        work, places = batch.work, batch.text.places.followed_by(batch.visual.places)
        same = places.samples[:, :, None] == places.samples[:, None, :]
        visible = (same & (places.groups[:, None, :] <= places.groups[:, :, None])).sum((0, 2))
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


@pytest.mark.slow
def test_a_counted_sample_is_the_micro_batch_of_it_alone(builder: SequenceBuilder) -> None:
    for sequence in (
        builder.text_to_image([*range(8)], CODES),
        builder.captioning(CODES[:14], [21, 22, 23, 24, 25], "en"),
        builder.interleaved([[1, 2], CODES, [3], CODES]),
    ):
        counted = count_sample(sequence, builder.vocabulary)
        batch = collate(sequence.kind, [[sequence]], builder.vocabulary, WEIGHTS, row_multiple=1)
        assert (counted.kind, counted.work) == (batch.kind, batch.work)
        assert (counted.num_text_labels, counted.num_code_labels) == (batch.num_text_labels, batch.num_code_labels)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"shared_output_projection": True},
        {"tie_word_embeddings": True},
        NORMED | {"shared_output_projection": True},
    ],
)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_counted_parameters_are_the_models(name: str, changes: dict[str, bool]) -> None:
    config = type(GEOMETRIES[name])(**asdict(replace(SIZES[name], **changes)))
    with torch.device("meta"):
        model = MarsForCausalLM(config)
    model.tie_weights()
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    looked_up_or_text = (".text_expert.", "embed_", "head.")
    active = sum(size for name, size in sizes.items() if not any(part in name for part in looked_up_or_text))
    if config.shared_output_projection:
        active += sum(size for name, size in sizes.items() if ".text_expert.o_proj." in name)
    counts = count_parameters(config)
    assert counts.total == sum(sizes.values())
    assert counts.trainable == sum(size for name, size in sizes.items() if is_trained(name))
    assert counts.active == active + config.codebook_size * config.hidden_size


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"layers_per_block": 3, "block_out_channels": (32, 32, 64)}])
@pytest.mark.parametrize("size_px", [128, 512])
def test_the_encoders_flop_are_those_that_torch_counts(changes: dict[str, Any], size_px: int) -> None:
    pixel_shuffle = VqganConfig(architecture="pixel_shuffle")
    for config in (replace(VqganConfig(), **changes), replace(OPEN_MUSE, **changes), pixel_shuffle):
        with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
            vqgan = build_vqgan(config)
            vqgan.quant_conv(vqgan.encoder(torch.empty(1, 3, size_px, size_px)))
        assert encoder_flop_of(config, size_px) == counter.get_total_flops()


def test_a_gpus_peak_is_found_by_its_name() -> None:
    assert peak_flop_per_s("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flop_per_s("NVIDIA H100 80GB HBM3") == 989.5e12
    assert peak_flop_per_s("NVIDIA H100 PCIe") == 756.5e12
    assert peak_flop_per_s("NVIDIA A10G") == 70e12
    assert peak_flop_per_s("Some card") is None
