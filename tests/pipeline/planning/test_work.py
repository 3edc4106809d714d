"""The expected work of a stage is that of its real steps."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch.utils.flop_counter import FlopCounterMode

from pipeline.architecture.geometries import GEOMETRIES
from pipeline.config.stage import INSTRUCTIONS, Source, StageConfig
from pipeline.config.tasks import Kind
from pipeline.data.collate import collate
from pipeline.errors import InputError
from pipeline.model.mars import MarsForCausalLM
from pipeline.planning.flops import flop_of, recomputed_flop_of
from pipeline.planning.work import INSTRUCTION_IDS, SampleLengths, expected_samples, stage_work
from pipeline.training.objective import Objective
from tests.support.objective import WEIGHTS
from tests.support.plans import plan_of_mars_7b
from tests.support.small_models import builder_of, small_config
from tokenization.text_tokenizer import load_text_tokenizer

QWEN_7B = GEOMETRIES["qwen_7b"]
LENGTHS = SampleLengths(num_codes=256, num_high_codes=4096, mean_caption_ids=77, max_caption_ids=512)
STAGE = StageConfig(purpose="work", seq_len=4096, global_batch_size=64, guidance_dropout=0.0)
RANKS = 8


def test_a_text_to_image_pair_takes_about_11_tflop_at_qwen_7bs_geometry() -> None:
    (kind,) = stage_work(QWEN_7B, STAGE, LENGTHS, 1).kinds
    assert kind.kind is Kind.TEXT_TO_IMAGE and kind.tokens == 77 + 256
    assert kind.flop.total == pytest.approx(11e12, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_expected_work_is_that_of_a_real_step_with_captions_of_all_lengths(number: int) -> None:
    """Steps of mars_7b's stages are packed, dealt and collated by the loader, with captions of 77 ids on average."""
    plan = plan_of_mars_7b(number)
    expected = stage_work(QWEN_7B, plan.stage, LENGTHS, RANKS)
    tokens, flop = dict.fromkeys(Kind, 0.0), dict.fromkeys(Kind, 0.0)
    longest = dict.fromkeys(Kind, 0)
    for rank in range(RANKS):
        step = plan.step(0, rank, RANKS)
        assert len(step.micro_steps) == pytest.approx(expected.grad_accum_steps, rel=0.05)
        for batch in (batch for batches in step.micro_steps for batch in batches):
            tokens[batch.kind] += batch.work.tokens
            flop[batch.kind] += flop_of(batch, QWEN_7B, plan.stage.normalisation).total
            longest[batch.kind] = max(longest[batch.kind], batch.work.padded_tokens)
    assert {kind for kind in Kind if tokens[kind]} == {work.kind for work in expected.kinds}
    assert sum(flop.values()) == pytest.approx(expected.flop / expected.steps, rel=0.03)
    assert sum(tokens.values()) == pytest.approx(expected.tokens / expected.steps, rel=0.03)
    for work in expected.kinds:
        assert flop[work.kind] == pytest.approx(work.samples * work.flop.total, rel=0.1), "shares are drawn"
        planned = plan.stage.micro_batch_size * (work.row_text_length + work.row_visual_length)
        assert planned >= 0.9 * longest[work.kind], "the memory plan would count too little"


@pytest.mark.slow
def test_recomputation_is_what_torch_counts_on_top() -> None:
    config = small_config(hidden_size=64, intermediate_size=160, num_hidden_layers=12)
    model = MarsForCausalLM(config).freeze_language_expert().train()
    model.set_attn_implementation("sdpa")  # of which torch's counter counts nothing on a CPU
    builder = builder_of(model)
    codes = np.arange(14)
    samples = (builder.text_to_image([*range(8)], codes), builder.captioning(codes, [21, 22, 23, 24, 25], "en"))
    for sample in samples:
        batch = collate(sample.kind, [[sample]], builder.vocabulary, WEIGHTS, 1)
        counted = {}
        for every in (0, 1, 3):
            if every:
                model.model.checkpoint_every = every
                model.gradient_checkpointing_enable()
            with FlopCounterMode(display=False) as counter:
                Objective(model)([batch]).loss.backward()
            counted[every] = counter.get_total_flops()
            text_pairs = 0 if sample.kind.has_text_prefix else batch.work.text_pairs
            attention = 4 * 64 * 12 * (batch.work.visual_pairs + text_pairs) / every if every else 0
            planned = recomputed_flop_of(batch, config, every) - attention
            assert planned == pytest.approx(counted[every] - counted[0], rel=0.02)
        model.gradient_checkpointing_disable()


@pytest.mark.slow
def test_instructions_are_as_long_as_said(tmp_path: Path) -> None:
    tokenizer = load_text_tokenizer("dashscope", tmp_path)
    assert {name: len(tokenizer(text)["input_ids"]) for name, text in INSTRUCTIONS.items()} == INSTRUCTION_IDS


def test_every_draw_that_training_makes_has_its_share() -> None:
    shares = {"text_to_image": 0.5, "captioning": 0.3, "high_resolution": 0.2}
    stage = replace(STAGE, task_shares=shares, guidance_dropout=0.1, language_shares={"en": 0.75, "zh": 0.25})
    samples = expected_samples(QWEN_7B, stage, LENGTHS)
    assert sum(share for share, _ in samples) == pytest.approx(1)
    for task, kind in (("text_to_image", Kind.TEXT_TO_IMAGE), ("captioning", Kind.CAPTIONING)):
        assert sum(share for share, each in samples if each.kind is kind) == pytest.approx(shares[task])
    without = [share for share, each in samples if each.kind is Kind.HIGH_RESOLUTION and len(each.ids) < 4400]
    assert without == pytest.approx([0.02])


def test_cropped_captions_are_shorter_and_count_as_such() -> None:
    whole, cropped = (
        sum(share * sequence.num_run for share, sequence in expected_samples(QWEN_7B, stage, LENGTHS))
        for stage in (STAGE, replace(STAGE, caption_crop=0.5))
    )
    assert whole - cropped == pytest.approx(0.5 * (LENGTHS.mean_caption_ids // 2), abs=0.5)


def test_documents_take_their_sources_share_and_their_own_length() -> None:
    sources = {"pairs": Source(weight=3.0), "lists": Source(weight=1.0)}
    stage = replace(STAGE, sources=sources, task_shares={"text_to_image": 0.5, "captioning": 0.5})
    work = {each.kind: each for each in stage_work(QWEN_7B, stage, LENGTHS, 1, {"lists": (3, 100)}).kinds}
    assert work[Kind.INTERLEAVED].samples == pytest.approx(16)
    assert work[Kind.TEXT_TO_IMAGE].samples == work[Kind.CAPTIONING].samples == pytest.approx(24)
    assert work[Kind.INTERLEAVED].text_tokens == 100, "the end behind them is only predicted"
    assert work[Kind.INTERLEAVED].visual_tokens == 3 * (256 + 2)


def test_grad_accum_steps_follow_from_rows_ranks_and_micro_batch_size() -> None:
    stage = replace(STAGE, seq_len=700, micro_batch_size=3)  # two samples a row
    work = stage_work(QWEN_7B, stage, LENGTHS, 4)
    (kind,) = work.kinds
    assert (kind.rows, kind.rows_per_rank, work.grad_accum_steps) == (32, 8, 3)
    assert work.samples == 1000 * 64 and work.tokens == 333 * work.samples


def test_rows_without_a_sample_count_as_padding() -> None:
    (kind,) = stage_work(QWEN_7B, replace(STAGE, global_batch_size=8), LENGTHS, 16).kinds
    assert kind.rows == 16 and kind.padding_fraction == pytest.approx(0.5)


def test_a_sample_that_no_row_takes_is_refused() -> None:
    with pytest.raises(InputError, match="does not fit into seq_len 300"):
        stage_work(QWEN_7B, replace(STAGE, seq_len=300), LENGTHS, 1)
    assert LENGTHS.longest(high_resolution=True) == 256 + 4096 + 512 + 16
