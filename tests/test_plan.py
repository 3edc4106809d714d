"""What a step trains on depends on its number alone; its weights make the loss a mean over the whole step."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.errors import InputError
from pipeline.order import SampleOrder
from pipeline.plan import StagePlan
from pipeline.sequences import Task
from pipeline.stage_config import StageConfig
from pipeline.token_data import RowIndex, TokenReader, build_row_index
from tests.conftest import CODEBOOK
from tokenization.token_table import Fingerprint, write_token_shard

FINGERPRINT = Fingerprint(
    "vq", "text", {"size_px": 48}, "float32", [4, 48, 48, 3], CODEBOOK, 9, 77, {"caption_en": "en"}
)
STAGE = StageConfig(
    purpose="test",
    task_shares={"text_to_image": 0.4, "captioning": 0.3, "high_resolution": 0.3},
    task_weights={"text_to_image": 1.0, "captioning": 0.5, "opener": 0.1, "high_resolution": 0.7},
    high_resolution_group=4,
    global_batch_size=16,
    micro_batch_size=2,
    seq_len=64,
    row_multiple=8,
)


@pytest.fixture
def tokens(tmp_path):
    write_tokens(tmp_path / "tokens")
    return tmp_path / "tokens"


def write_tokens(folder, fingerprint=FINGERPRINT, shards=3, rows=10, high=True):
    generator = np.random.default_rng(0)
    for shard in range(shards):
        lines = [
            {
                "sample_id": f"{shard:05d}.tar/{row:04d}",
                "codes": generator.integers(0, CODEBOOK, 9).astype(np.uint16),
                "codes_hr": generator.integers(0, CODEBOOK, 16).astype(np.uint16) if high else None,
                "captions": [
                    {"lang": "en", "text": "a b", "ids": [10 + row, 40 + shard], "truncated": False},
                    {"lang": "zh", "text": "c", "ids": [60 + row], "truncated": False},
                ],
                "width": 48,
                "height": 48,
                "crop": {"left": 0, "top": 0, "side": 48},
                "score": row / 10,
            }
            for row in range(rows)
        ]
        write_token_shard(folder / f"{shard:05d}.parquet", lines, fingerprint)
    (folder / "manifest.json").write_text("{}")


def plan_of(tokens, builder, stage=STAGE, where=""):
    index = build_row_index(tokens, where)
    order = SampleOrder(index.counts, 0, 1, stage.window_shards)
    return StagePlan(stage, 1, 0, order, TokenReader(tokens, index, 17), builder)


def test_the_number_of_ranks_changes_neither_samples_nor_label_counts(tokens, builder):
    plan = plan_of(tokens, builder)
    alone = plan.step(3, 0, 1)
    for world_size in (2, 4):
        ranks = [plan.step(3, rank, world_size) for rank in range(world_size)]
        assert all(rank.sample_ids == alone.sample_ids for rank in ranks)
        assert all((rank.label_counts == alone.label_counts).all() for rank in ranks)
        labels = [sum(labels_of(rank, task) for rank in ranks) for task in Task]
        assert labels == alone.label_counts.tolist() == [labels_of(alone, task) for task in Task]


def test_every_rank_runs_the_same_kinds_in_the_same_order(tokens, builder):
    plan = plan_of(tokens, builder, replace(STAGE, global_batch_size=5))
    for step in range(8):
        kinds = [[[b.kind for b in batches] for batches in plan.step(step, r, 4).micro_steps] for r in range(4)]
        assert kinds[0] == kinds[1] == kinds[2] == kinds[3]


def test_weights_of_a_tasks_labels_add_up_to_the_tasks_weight(tokens, builder):
    plan = plan_of(tokens, builder)
    ranks = [plan.step(0, rank, 2) for rank in range(2)]
    for task in Task:
        total = sum(
            labels.weights[labels.tasks == task.value].sum().item()
            for rank in ranks
            for batches in rank.micro_steps
            for batch in batches
            for labels in (batch.text_labels, batch.code_labels)
        )
        assert total == pytest.approx(STAGE.task_weights[task.name.lower()])


def test_high_resolution_without_its_codes_is_refused_by_the_samples_name(tmp_path, builder):
    write_tokens(tmp_path / "low", high=False)
    plan = plan_of(tmp_path / "low", builder)
    with pytest.raises(InputError, match=r"'0000\d.tar/\d+' has no high-resolution codes"):
        for step in range(4):
            plan.step(step, 0, 1)


def test_a_filter_selects_by_the_tables_columns(tokens):
    assert build_row_index(tokens, "score >= 0.5").counts.tolist() == [5, 5, 5]


def test_a_column_that_a_shard_lacks_is_empty_there(tokens):
    path = tokens / "00001.parquet"
    pq.write_table(pq.read_table(path).drop_columns("score"), path)
    assert build_row_index(tokens, "score >= 0.5").counts.tolist() == [5, 0, 5]


@pytest.mark.parametrize("where", ["beauty > 1", "score >", "score > 99"])
def test_a_filter_that_cannot_work_is_refused_with_its_text(tokens, where):
    with pytest.raises(InputError, match=where):
        build_row_index(tokens, where)


def test_shards_of_another_vqgan_are_refused(tokens):
    from tokenization.errors import InputError as TokenError

    lines = [{"sample_id": "x/0", "codes": np.zeros(9, np.uint16), "captions": [], "width": 1, "height": 1}]
    write_token_shard(tokens / "00009.parquet", lines, replace(FINGERPRINT, vq_sha256="other"))
    with pytest.raises(TokenError, match=r"00009.*vq_sha256"):
        build_row_index(tokens, "")


def labels_of(step, task) -> int:
    return sum(
        int((labels.tasks == task.value).sum())
        for batches in step.micro_steps
        for batch in batches
        for labels in (batch.text_labels, batch.code_labels)
    )


def test_reading_goes_through_the_index(tokens):
    index = RowIndex(["00001.parquet"], [np.asarray([4, 7], np.int32)])
    reader = TokenReader(tokens, index, 1)
    assert reader.row(0, 1).sample_id == "00001.tar/0007"
