"""Validation's figures are what their names say, over all held-out rows and nothing else."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from pipeline.config.tasks import Task
from pipeline.data.collate import collate
from pipeline.data.row_index import SourceRows
from pipeline.data.row_selection import RowSelection, build_row_index
from pipeline.data.sequences import Sequence
from pipeline.data.token_reader import TokenReader
from pipeline.model.mars import MarsForCausalLM
from pipeline.training.objective import Objective
from pipeline.training.validation import validate, validate_alone, validation_sets
from tests.support.small_models import CODEBOOK, builder_of, small_config
from tests.support.tokens import STAGE, write_documents, write_tokens


@pytest.fixture
def alone() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def objective() -> Objective:
    torch.manual_seed(0)
    return Objective(MarsForCausalLM(small_config(codebook_size=CODEBOOK)).eval())


def held_out(folder: Path, query: str) -> SourceRows:
    return SourceRows("main", folder, build_row_index(RowSelection(folder, query)))


def bits(objective: Objective, sequences: list[Sequence], task: Task) -> float:
    vocabulary = objective.mars.config.vocabulary
    batches = [collate(each.kind, [[each]], vocabulary, [1.0] * len(Task), 1) for each in sequences]
    with torch.no_grad():
        return float(sum(objective([batch]).task_losses[task.value].item() for batch in batches) / math.log(2))


def test_bits_a_code_and_a_caption_byte_are_those_of_the_rows_one_by_one(
    alone: None, objective: Objective, tmp_path: Path
) -> None:
    write_tokens(tmp_path / "tokens")
    source, builder = held_out(tmp_path / "tokens", "score >= 0.7"), builder_of(objective.mars)
    figures = validate(objective, validation_sets(STAGE, 1, (source,), builder), torch.device("cpu"))
    reader = TokenReader(source.tokens, source.index, 3)
    rows = [reader.row(shard, place) for shard in range(3) for place in range(3)]
    for number, language in enumerate(("en", "zh")):
        drawn = [builder.text_to_image(row.captions[number].ids, row.codes) for row in rows]
        expected = bits(objective, drawn, Task.TEXT_TO_IMAGE) / (9 * len(rows))
        assert figures[f"text_to_image/{language}/bits_a_code"] == pytest.approx(expected, rel=1e-5)
        written = [builder.captioning(row.codes, row.captions[number].ids, language) for row in rows]
        num_bytes = len(rows) * len(("a b", "c")[number])
        expected = bits(objective, written, Task.CAPTIONING) / num_bytes
        assert figures[f"captioning/{language}/bits_a_caption_byte"] == pytest.approx(expected, rel=1e-5)
        assert figures[f"high_resolution/{language}/bits_a_code"] > 0
    assert len(figures) == 6


def test_one_process_measures_the_same_as_the_ranks(alone: None, objective: Objective, tmp_path: Path) -> None:
    write_tokens(tmp_path / "tokens")
    source, builder = held_out(tmp_path / "tokens", "score >= 0.7"), builder_of(objective.mars)
    sets, device = validation_sets(STAGE, 1, (source,), builder), torch.device("cpu")
    figures = validate(objective, sets, device)
    assert validate_alone(objective, sets, device, world_size=1) == figures
    assert validate_alone(objective, sets, device, world_size=3) == pytest.approx(figures, rel=1e-5)


def test_documents_are_measured_whole(alone: None, objective: Objective, tmp_path: Path) -> None:
    write_documents(tmp_path / "documents")
    source, builder = held_out(tmp_path / "documents", ""), builder_of(objective.mars)
    figures = validate(objective, validation_sets(STAGE, 1, (source,), builder), torch.device("cpu"))
    reader = TokenReader(source.tokens, source.index, 1)
    documents = [reader.row(0, place).document for place in range(6)]
    sequences = [builder.interleaved(document) for document in documents if document is not None]
    assert len(sequences) == 6
    texts = sum(int((each.label_tasks == Task.DOCUMENT_TEXT.value).sum()) for each in sequences)
    expected = bits(objective, sequences, Task.DOCUMENT_TEXT) / texts
    assert figures["documents/bits_a_text_id"] == pytest.approx(expected, rel=1e-5)


def test_only_the_asked_for_number_of_rows_is_used(objective: Objective, tmp_path: Path) -> None:
    write_tokens(tmp_path / "tokens")
    source = held_out(tmp_path / "tokens", "")
    few = validation_sets(replace(STAGE, validation_rows=4), 1, (source,), builder_of(objective.mars))
    assert {each.plan.step(0, 0, 1).num_samples for each in few} == {4}


def test_rows_held_out_are_never_trained_on(tmp_path: Path) -> None:
    write_tokens(tmp_path / "tokens")
    trained = build_row_index(RowSelection(tmp_path / "tokens", "score >= 0.5", held_out="score >= 0.8"))
    assert [trained.rows(shard).tolist() for shard in range(3)] == [[5, 6, 7]] * 3
