"""The plan of a step knows each sample's length, cost and labels without reading it, so a rank reads its own alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.config.stage import StageConfig
from pipeline.config.tasks import Task
from pipeline.config.vocabulary import JointVocabulary
from pipeline.data.batch_plan import StagePlan
from pipeline.data.row_lengths import RowLengths, store_row_lengths
from pipeline.data.row_selection import RowSelection, build_row_index
from pipeline.data.rows import Row
from pipeline.data.sample_lengths import LANGUAGES, SampleLengths
from pipeline.data.sample_order import MixedOrder, SampleOrder
from pipeline.data.sample_plan import cost_of
from pipeline.data.sequences import SequenceBuilder
from pipeline.data.token_reader import TokenReader
from pipeline.errors import InputError
from tests.support.small_models import CODEBOOK, END_ID, TEXT_VOCAB
from tests.support.tokens import FINGERPRINT, STAGE, write_documents
from tokenization.table.token_writing import write_token_shard

BUILDER = SequenceBuilder(JointVocabulary(TEXT_VOCAB, CODEBOOK), {"en": [5, 6, 7], "zh": [8, 9]}, END_ID)


class CountingReader(TokenReader):
    """Counts the rows that are read."""

    num_read = 0

    def row(self, shard: int, index: int) -> Row:
        self.num_read += 1
        return super().row(shard, index)


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Pictures whose captions differ in number, language and length, and documents."""
    random = np.random.default_rng(3)
    for shard in range(3):
        rows = []
        for number in range(24):
            languages = [("en", "en", "zh"), ("zh",), ("de", "en", "zh"), ("en", "zh")][number % 4]
            counts = random.integers(1, 12, len(languages))
            rows.append(
                {
                    "sample_id": f"{shard}.tar/{number}",
                    "codes": random.integers(0, CODEBOOK, 9).astype(np.uint16),
                    "codes_hr": None if number % 8 == 3 else random.integers(0, CODEBOOK, 16).astype(np.uint16),
                    "captions": [
                        {"lang": language, "text": "a" * count, "ids": [*range(count)], "truncated": False}
                        for language, count in zip(languages, counts.tolist(), strict=True)
                    ],
                    "score": number,
                }
            )
        write_token_shard(tmp_path / "pictures" / f"{shard}.parquet", rows, FINGERPRINT)
    (tmp_path / "pictures" / "manifest.json").write_text("{}")
    write_documents(tmp_path / "documents", rows=12)
    return [tmp_path / "pictures", tmp_path / "documents"]


def plan_of(folders: list[Path], stage: StageConfig, where: str = "") -> StagePlan:
    indexes = [build_row_index(RowSelection(folder, query)) for folder, query in zip(folders, (where, ""), strict=True)]
    orders = [SampleOrder(index.counts, 0, 1, stage.window_shards, number) for number, index in enumerate(indexes)]
    readers = [CountingReader(folder, index, 9) for folder, index in zip(folders, indexes, strict=True)]
    return StagePlan(stage, 1, 0, MixedOrder(orders, [3.0, 1.0], stage.global_batch_size), readers, BUILDER)


@pytest.mark.parametrize(
    "shares",
    [{"text_to_image": 0.5, "captioning": 0.5}, {"captioning": 1.0}, {"high_resolution": 1.0}],
)
def test_a_sample_is_built_as_it_was_planned(folders: list[Path], shares: dict[str, float]) -> None:
    stage = replace(STAGE, task_shares=shares, caption_crop=0.4, guidance_dropout=0.2, global_batch_size=32)
    where = "score % 8 != 3" if "high_resolution" in shares else "score != 5"
    plan = plan_of(folders, stage, where)
    for step in range(6):
        samples = plan.order.step(step)
        planned = plan.planned(step, samples)
        for number, (source, shard, index) in enumerate(samples.tolist()):
            sequence = plan._sequence(plan.readers[source].row(shard, index), planned, number, (step, number))
            assert sequence.kind.value == planned.kinds[number]
            assert sequence.num_run == planned.num_run[number]
            assert cost_of(sequence, BUILDER) == planned.costs[number]
            labels = np.bincount(sequence.label_tasks, minlength=len(Task))
            assert labels.tolist() == planned.labels[number].tolist()


def test_a_caption_in_a_language_without_an_instruction_is_refused_by_its_samples_name(
    tmp_path: Path,
) -> None:
    caption = {"lang": "de", "text": "a", "ids": [1], "truncated": False}
    row = {"sample_id": "0.tar/7", "codes": np.zeros(9, np.uint16), "captions": [caption]}
    write_token_shard(tmp_path / "german" / "0.parquet", [row], FINGERPRINT)
    (tmp_path / "german" / "manifest.json").write_text("{}")
    index = build_row_index(RowSelection(tmp_path / "german"))
    order = MixedOrder([SampleOrder(index.counts, 0, 1, 1)], [1.0], 1)
    stage = replace(STAGE, task_shares={"captioning": 1.0}, global_batch_size=1)
    plan = StagePlan(stage, 1, 0, order, [TokenReader(tmp_path / "german", index, 1)], BUILDER)
    with pytest.raises(InputError, match="sample '0.tar/7' has no caption in a language of the stage"):
        plan.step(0, 0, 1)


def test_a_rank_reads_its_own_samples_alone(folders: list[Path]) -> None:
    stage = replace(STAGE, task_shares={"text_to_image": 0.5, "captioning": 0.5}, global_batch_size=32)
    read = []
    for rank in range(4):
        plan = plan_of(folders, stage)
        plan.step(2, rank, 4)
        read.append(sum(reader.num_read for reader in plan.readers if isinstance(reader, CountingReader)))
    assert 32 <= sum(read) <= 32 + 4 and max(read) <= 12, "each sample once, and a filler for a row without any"


def test_lengths_are_those_of_the_rows_and_are_kept_in_a_file(folders: list[Path], tmp_path: Path) -> None:
    for folder, where in zip(folders, ("score != 5", ""), strict=True):
        index = build_row_index(RowSelection(folder, where))
        places = [(shard, row) for shard, count in enumerate(index.counts) for row in range(count)]
        shards, rows = np.array(places)[::-1].T
        reader = TokenReader(folder, index, 9)
        expected = SampleLengths.of_rows([reader.row(shard, row) for shard, row in places[::-1]])
        file = tmp_path / f"{folder.name}.arrow"
        store_row_lengths(file, folder, index)
        written = file.stat().st_mtime_ns
        store_row_lengths(file, folder, index)
        assert file.stat().st_mtime_ns == written
        for lengths in (RowLengths(folder, index, file), RowLengths(folder, index)):
            found = lengths.take(shards, rows)
            for name in vars(expected):
                assert getattr(found, name).tolist() == getattr(expected, name).tolist(), name
        file.write_bytes(file.read_bytes()[:200])
        store_row_lengths(file, folder, index)
        assert file.stat().st_size > 200, "a damaged file is made again"
    assert LANGUAGES == ("en", "zh")


def test_the_lengths_of_another_selection_are_made_anew(folders: list[Path], tmp_path: Path) -> None:
    all_rows, some = (build_row_index(RowSelection(folders[0], where)) for where in ("", "score > 11"))
    file = tmp_path / "kept.arrow"
    store_row_lengths(file, folders[0], all_rows)
    expected = [len(TokenReader(folders[0], some, 9).row(0, 0).captions[0].ids)]
    first = np.zeros(1, np.int64)
    assert RowLengths(folders[0], some, file).take(first, first).first_ids.tolist() == expected, "it has other rows"
    store_row_lengths(file, folders[0], some)
    assert RowLengths(folders[0], some, file).take(first, first).first_ids.tolist() == expected
