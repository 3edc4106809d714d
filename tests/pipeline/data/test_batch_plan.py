"""The samples of a step depend on its number alone; its weights make the loss a mean over the whole step."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.stage import StageConfig
from pipeline.config.tasks import Kind, Task
from pipeline.data.batch_plan import StagePlan, Step
from pipeline.data.row_index import RowIndex
from pipeline.data.row_selection import RowSelection, build_row_index
from pipeline.data.sample_order import MixedOrder, SampleOrder
from pipeline.data.sequences import SequenceBuilder
from pipeline.data.token_reader import TokenReader
from pipeline.errors import InputError
from tests.support.tokens import FINGERPRINT, STAGE, write_documents, write_tokens
from tokenization.table.token_writing import write_token_shard


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    write_tokens(tmp_path / "tokens")
    return tmp_path / "tokens"


def plan_of(tokens: Path, builder: SequenceBuilder, stage: StageConfig = STAGE, where: str = "") -> StagePlan:
    return plan_of_sources([(tokens, where, 1.0)], builder, stage)


def plan_of_sources(
    sources: list[tuple[Path, str, float]], builder: SequenceBuilder, stage: StageConfig = STAGE
) -> StagePlan:
    """Sources are (token folder, filter, weight)."""
    indexes = [build_row_index(RowSelection(tokens, where, (), stage.seq_len)) for tokens, where, _ in sources]
    orders = [SampleOrder(each.counts, 0, 1, stage.window_shards, number) for number, each in enumerate(indexes)]
    order = MixedOrder(orders, [weight for *_, weight in sources], stage.global_batch_size)
    readers = [TokenReader(tokens, index, 17) for (tokens, *_), index in zip(sources, indexes, strict=True)]
    return StagePlan(stage, 1, 0, order, readers, builder)


def test_the_number_of_ranks_changes_neither_samples_nor_label_counts(tokens: Path, builder: SequenceBuilder) -> None:
    plan = plan_of(tokens, builder)
    alone = plan.step(3, 0, 1)
    for world_size in (2, 4):
        ranks = [plan.step(3, rank, world_size) for rank in range(world_size)]
        assert all(rank.samples_sha256 == alone.samples_sha256 for rank in ranks)
        assert all((rank.label_counts == alone.label_counts).all() for rank in ranks)
        labels = [sum(labels_of(rank, task) for rank in ranks) for task in Task]
        assert labels == alone.label_counts.tolist() == [labels_of(alone, task) for task in Task]


@pytest.mark.slow
def test_every_rank_runs_the_same_kinds_in_the_same_order(tokens: Path, builder: SequenceBuilder) -> None:
    plan = plan_of(tokens, builder, replace(STAGE, global_batch_size=5))
    for step in range(8):
        kinds = [[[b.kind for b in batches] for batches in plan.step(step, r, 4).micro_steps] for r in range(4)]
        assert kinds[0] == kinds[1] == kinds[2] == kinds[3]


def test_weights_of_a_tasks_labels_add_up_to_the_tasks_weight(
    tokens: Path, tmp_path: Path, builder: SequenceBuilder
) -> None:
    write_documents(tmp_path / "documents")
    plan = plan_of_sources([(tokens, "", 3.0), (tmp_path / "documents", "", 1.0)], builder)
    ranks = [plan.step(0, rank, 2) for rank in range(2)]
    for task in Task:
        total = sum(
            labels.weights[labels.tasks == task.value].sum().item()
            for rank in ranks
            for batches in rank.micro_steps
            for batch in batches
            for labels in (batch.text_labels, batch.code_labels)
        )
        assert total == pytest.approx(STAGE.task_weights.get(task.name.lower(), 1.0))


@pytest.mark.slow
def test_a_share_of_the_captions_begins_later_and_one_that_is_to_be_written_never_does(
    tokens: Path, builder: SequenceBuilder
) -> None:
    stage = replace(STAGE, caption_crop=0.4, guidance_dropout=0.0, language_shares={"en": 1.0}, global_batch_size=30)
    plan, prompts, ids = plan_of(tokens, builder, stage), 0, 0
    for step in (plan.step(number, 0, 1) for number in range(20)):
        of_prompts = int(step.label_counts[Task.OPENER.value])
        assert step.label_counts[Task.CAPTIONING.value] == (30 - of_prompts) * 3, "two ids and an end"
        batches = [batch for batches in step.micro_steps for batch in batches]
        prompts += of_prompts
        ids += sum(batch.work.text_tokens for batch in batches if batch.kind is not Kind.CAPTIONING)
    assert 2 - ids / prompts == pytest.approx(0.4, abs=0.1), "of two ids one is left"


def test_high_resolution_without_its_codes_is_refused_by_the_samples_name(
    tmp_path: Path, builder: SequenceBuilder
) -> None:
    write_tokens(tmp_path / "low", high=False)
    plan = plan_of(tmp_path / "low", builder)
    with pytest.raises(InputError, match=r"'0000\d.tar/\d+' has no high-resolution codes"):
        for step in range(4):
            plan.step(step, 0, 1)


def test_a_filter_selects_by_the_tables_columns(tokens: Path) -> None:
    assert build_row_index(RowSelection(tokens, "score >= 0.5")).counts.tolist() == [5, 5, 5]


def test_a_column_that_a_shard_lacks_is_empty_there(tokens: Path) -> None:
    path = tokens / "00001.parquet"
    pq.write_table(pq.read_table(path).drop_columns("score"), path)
    assert build_row_index(RowSelection(tokens, "score >= 0.5")).counts.tolist() == [5, 0, 5]


@pytest.mark.parametrize("where", ["beauty > 1", "score >", "score > 99"])
def test_a_filter_that_cannot_work_is_refused_with_its_text(tokens: Path, where: str) -> None:
    with pytest.raises(InputError, match=where):
        build_row_index(RowSelection(tokens, where))


def test_shards_of_another_vqgan_are_refused(tokens: Path) -> None:
    lines = [{"sample_id": "x/0", "codes": np.zeros(9, np.uint16), "captions": [], "width": 1, "height": 1}]
    write_token_shard(tokens / "00009.parquet", lines, replace(FINGERPRINT, vq_sha256="other"))
    with pytest.raises(InputError, match=r"00009.*vq_sha256"):
        build_row_index(RowSelection(tokens))


def labels_of(step: Step, task: Task) -> int:
    return sum(
        int((labels.tasks == task.value).sum())
        for batches in step.micro_steps
        for batch in batches
        for labels in (batch.text_labels, batch.code_labels)
    )


def test_reading_goes_through_the_index(tokens: Path) -> None:
    index = RowIndex.of(["00001.parquet"], [np.asarray([4, 7])])
    reader = TokenReader(tokens, index, 1)
    assert reader.row(0, 1).sample_id == "00001.tar/0007"


def test_a_document_is_one_sample_of_all_its_parts_in_order(tmp_path: Path, builder: SequenceBuilder) -> None:
    lines = write_documents(tmp_path / "documents")
    index = build_row_index(RowSelection(tmp_path / "documents"))
    assert index.rows(0).tolist() == [0, 1, 3, 6, 7, 9]
    row = TokenReader(tmp_path / "documents", index, 1).row(0, 1)
    assert row.document is not None
    assert row.document[0] == [21, 30] and row.document[2] == [21, 31] and row.document[4] == [50]
    assert (row.document[1] == lines[1]["codes"]).all() and (row.document[3] == lines[2]["codes"]).all()


def test_documents_that_fit_no_row_are_left_out_and_counted(tmp_path: Path) -> None:
    write_documents(tmp_path / "documents")
    ids_of_two_pictures = 2 * (2 + 9 + 2) + 1 + 1  # with the text after them and the end
    index = build_row_index(RowSelection(tmp_path / "documents", "", (), ids_of_two_pictures))
    assert index.rows(0).tolist() == [0, 1, 6, 7] and index.num_too_long == 2
    with pytest.raises(InputError, match="6 documents are longer than 9 ids"):
        build_row_index(RowSelection(tmp_path / "documents", "", (), 9))


def test_half_a_document_is_refused_by_its_name(tmp_path: Path) -> None:
    write_documents(tmp_path / "documents")
    path = tmp_path / "documents" / "00000.parquet"
    pq.write_table(pq.read_table(path).slice(0, 2), path)
    index = build_row_index(RowSelection(tmp_path / "documents"))
    with pytest.raises(InputError, match="document 'd1' is not whole"):
        TokenReader(tmp_path / "documents", index, 1).row(0, 1)


@pytest.mark.slow
def test_documents_and_pictures_share_a_step_by_their_weights(
    tokens: Path, tmp_path: Path, builder: SequenceBuilder
) -> None:
    write_documents(tmp_path / "documents")
    plan = plan_of_sources([(tokens, "", 3.0), (tmp_path / "documents", "", 1.0)], builder)
    for step in range(4):
        ranks = [plan.step(step, rank, 2) for rank in range(2)]
        from_documents = [name for name in plan.sample_ids([step])[0] if ".tar" not in name]
        assert len(from_documents) == 4
        for rank in ranks:
            assert Kind.INTERLEAVED in {batch.kind for batches in rank.micro_steps for batch in batches}
        labels = [sum(labels_of(rank, task) for rank in ranks) for task in Task]
        assert labels == ranks[0].label_counts.tolist()
        assert labels[Task.DOCUMENT_TEXT.value] >= 4 * 2  # an opener and the end of each at least


def test_a_side_tables_columns_filter_with_the_tables_own(tokens: Path, tmp_path: Path) -> None:
    names = [f"{shard:05d}.tar/{row:04d}" for shard in range(3) for row in range(10)]
    scores = pa.table({"sample_id": names[5:], "aesthetic": np.arange(25) / 10})
    pq.write_table(scores, tmp_path / "scores.parquet")
    for shard in range(3):
        part = pa.table({"sample_id": names[10 * shard :][:10], "clip": np.full(10, shard / 2)})
        (tmp_path / "clip").mkdir(exist_ok=True)
        pq.write_table(part, tmp_path / "clip" / f"{shard:05d}.parquet")
    sides = (str(tmp_path / "scores.parquet"), str(tmp_path / "clip"))
    index = build_row_index(RowSelection(tokens, "score >= 0.5 and aesthetic >= 0.3 and clip < 1", sides))
    # Rows 5 to 7 of the first shard score too little; those before them have no score at all.
    assert [index.rows(shard).tolist() for shard in range(3)] == [[8, 9], [5, 6, 7, 8, 9], []]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"sample_id": ["other.tar/1"], "clip": [1.0]}, "has no sample_id of these tokens"),
        ({"key": ["00000.tar/0001"], "clip": [1.0]}, "has no column 'sample_id'; it has key, clip"),
        ({"sample_id": ["00000.tar/0001"] * 2, "clip": [1.0, 2.0]}, "'00000.tar/0001' more than once"),
        ({"sample_id": ["00000.tar/0001"], "score": [1.0]}, "repeats the column 'score'"),
        (None, "does not exist"),
    ],
)
def test_a_side_table_that_cannot_be_used_is_refused_by_its_name(
    tokens: Path, tmp_path: Path, columns: dict[str, Any] | None, message: str
) -> None:
    path = tmp_path / "side.parquet"
    if columns:
        pq.write_table(pa.table(columns), path)
    with pytest.raises(InputError, match=message):
        build_row_index(RowSelection(tokens, "", (str(path),)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "noise", "replaced"),
    [
        ("high_resolution", {"high_resolution_noise": 0.8}, 0.4 * 16 / (2 + 9 + 4 + 16)),
        ("text_to_image", {"text_to_image_noise": 0.9}, 0.45 * 9 / (1 + 9)),
    ],
)
def test_noise_is_seen_but_never_predicted_and_is_the_same_after_a_restart(
    tokens: Path, builder: SequenceBuilder, task: str, noise: dict[str, Any], replaced: float
) -> None:
    asked = replace(STAGE, task_shares={task: 1.0}, global_batch_size=30)
    clean, noisy = (plan_of(tokens, builder, stage) for stage in (asked, replace(asked, **noise)))
    (truth,), (seen,) = (plan.step(3, 0, 1).micro_steps[0] for plan in (clean, noisy))
    assert (truth.code_labels.ids == seen.code_labels.ids).all()
    changed = (truth.visual.ids != seen.visual.ids).float().mean().item()
    assert 0.6 * replaced < changed < 1.2 * replaced
    (again,) = plan_of(tokens, builder, replace(asked, **noise)).step(3, 0, 1).micro_steps[0]
    assert (again.visual.ids == seen.visual.ids).all()
