"""Text drift is measured on text that the language expert never saw, and shows a change if there is one."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import Qwen2ForCausalLM

from pipeline.benchmarks.synthetic import synthetic_run
from pipeline.config.stage import StageConfig
from pipeline.config.zero import ZeroConfig
from pipeline.data.row_selection import RowSelection
from pipeline.evaluation.expert_comparison import EXPERTS, Comparison, make_objective, text_logits, train_experts
from pipeline.evaluation.text_drift import held_out_texts, text_drift
from pipeline.model.mars import MarsForCausalLM
from pipeline.training.stage_run import StageRun
from tests.support.small_models import CODEBOOK, END_ID, small_config
from tests.support.tokens import write_tokens

TEXTS = [[3, 4, 5], [9], [20, 21, 22, 23, 24]]


def logits_of(model: Qwen2ForCausalLM | MarsForCausalLM) -> Callable:
    return lambda ids: model(ids).logits[..., :300]


def test_semvie_leaves_text_as_it_was_to_the_last_bit(base: Qwen2ForCausalLM) -> None:
    model = MarsForCausalLM.from_language_expert(base, CODEBOOK)
    for name, parameter in model.named_parameters():
        if "visual" in name:
            parameter.data += torch.randn_like(parameter)
    drift = text_drift(logits_of(model), logits_of(base), TEXTS, END_ID)
    assert drift.mean_kl == 0 and drift.max_abs_diff == 0 and drift.perplexity == drift.base_perplexity


def test_perplexity_and_drift_are_by_definition(base: Qwen2ForCausalLM) -> None:
    other = type(base)(base.config).eval()
    drift = text_drift(logits_of(other), logits_of(base), TEXTS, END_ID)
    losses, kl = [], []
    for ids in TEXTS:
        line = torch.tensor([[END_ID, *ids, END_ID]])
        own, reference = other(line).logits[0, :-1], base(line).logits[0, :-1]
        losses += F.cross_entropy(own, line[0, 1:], reduction="none").tolist()
        p, q = reference.softmax(-1), own.softmax(-1)
        kl += (p * (p / q).log()).sum(-1).tolist()
    assert drift.perplexity == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-4)
    assert drift.mean_kl == pytest.approx(sum(kl) / len(kl), rel=1e-3) and drift.mean_kl > 0.001
    assert drift.max_abs_diff > 0.01


def test_held_out_texts_are_of_rows_that_nothing_trained_on(tmp_path: Path) -> None:
    write_tokens(tmp_path)  # ids 10 to 19 and 60 to 69 stand for the row, which has the score row / 10
    trained = [RowSelection(tmp_path, "score < 0.3"), RowSelection(tmp_path, held_out="score < 0.7")]
    texts = held_out_texts(trained, 100)
    assert {ids[0] % 10 for ids in texts} == {3, 4, 5, 6} and len(texts) == 2 * 3 * 4
    few = held_out_texts(trained, 12)
    assert len(few) == 12 and few == held_out_texts(trained, 12)
    assert {ids[1] for ids in few if len(ids) == 2} == {40, 41, 42}, "not from all over the folder"
    assert held_out_texts([*trained, RowSelection(tmp_path)], 5) == []


def test_an_expert_that_read_nothing_else_is_asked_only_about_words_it_knows(tmp_path: Path) -> None:
    write_tokens(tmp_path, shards=2)
    read = RowSelection(tmp_path, "score < 0.3 or score == 0.5")
    table = held_out_texts([RowSelection(tmp_path, "score < 0.3")], 100, read)
    assert {ids[0] % 10 for ids in table} == {5} and len(table) == 2 * 2


def some_run(folder: Path, steps: int) -> StageRun:
    stage = StageConfig(
        purpose="test",
        task_shares={"text_to_image": 0.5, "captioning": 0.5},
        language_shares={"en": 1.0},
        steps=steps,
        warmup_steps=1,
        learning_rate=5e-3,
        global_batch_size=8,
        micro_batch_size=4,
        seq_len=64,
        row_multiple=8,
        attention="eager",
    )
    run = synthetic_run(folder, small_config(), stage, ZeroConfig(dtype="float32"), text_ids=5, num_codes=16)
    return replace(run, end_id=END_ID)


def test_both_kinds_of_experts_start_as_the_same_model(tmp_path: Path) -> None:
    run = some_run(tmp_path, 1)
    two, shared = (make_objective(experts, run, run.zero) for experts in EXPERTS)
    ids = torch.tensor([[1, 2, 3, 4]])
    torch.testing.assert_close(text_logits(two)(ids), text_logits(shared)(ids))
    trained = [sum(p.numel() for p in one.mars.parameters() if p.requires_grad) for one in (two, shared)]
    assert trained[0] == trained[1]


def train_both(rank: int, folder: Path) -> None:
    run = some_run(folder, 6)
    records = [
        record
        for experts in EXPERTS
        for record in train_experts(experts, Comparison(run, TEXTS, measurements=3), lambda _: None)
    ]
    (folder / "records.json").write_text(json.dumps(records))


@pytest.mark.slow
def test_a_shared_expert_drifts_from_the_base_and_two_do_not(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(train_both, args=(tmp_path,), nprocs=1)
    records = json.loads((tmp_path / "records.json").read_text())
    measured = {name: [one for one in records if one["experts"] == name and "mean_kl" in one] for name in EXPERTS}
    assert [one["step"] for one in measured["two"]] == [one["step"] for one in measured["shared"]] == [0, 3, 6]
    assert all(one["mean_kl"] == one["max_abs_diff"] == 0 for one in measured["two"])
    assert measured["shared"][0]["mean_kl"] == 0 and measured["shared"][-1]["mean_kl"] > 1e-4
    assert measured["shared"][-1]["perplexity"] != measured["shared"][-1]["base_perplexity"]
    first, last = ([one for one in records if one["step"] == step] for step in (1, 6))
    assert first[0]["loss/text_to_image"] == pytest.approx(first[1]["loss/text_to_image"], rel=1e-5)
    assert {name for name in first[0] if name.startswith("loss/")} == {
        "loss/text_to_image",
        "loss/captioning",
        "loss/opener",
        "loss/plain_text",
    }
    assert last[0]["loss/captioning"] != last[1]["loss/captioning"]
