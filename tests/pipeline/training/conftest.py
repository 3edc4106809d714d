"""A small stage, its inputs, and its undisturbed result."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from pipeline.config.model import ModelOptions
from pipeline.config.vocabulary import Role
from pipeline.config.zero import ZeroConfig
from pipeline.data.row_index import SourceRows
from pipeline.data.row_selection import RowSelection, build_row_index
from pipeline.generation.pictures import HighResolution
from pipeline.training.samples import SamplePrompts
from pipeline.training.stage_run import StageRun
from tests.support.ranks import STAGE, VQGAN, Undisturbed, on_ranks
from tests.support.small_models import CODEBOOK, END_ID, TEXT_VOCAB
from tests.support.tokens import write_documents, write_tokens
from tokenization.vqgan.model import build_vqgan


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language expert, tokens of pictures and of documents, and a VQ-GAN."""
    folder = tmp_path_factory.mktemp("inputs")
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=TEXT_VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder / "base")
    write_tokens(folder / "tokens")
    write_documents(folder / "documents")
    build_vqgan(VQGAN).save_pretrained(folder / "vq")
    return folder


@pytest.fixture
def run(inputs: Path, tmp_path: Path) -> StageRun:
    return run_in(tmp_path, inputs)


@pytest.fixture(scope="session")
def undisturbed(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    @cache
    def trained(**zero: Any) -> tuple[StageRun, list[dict]]:
        run = run_in(tmp_path_factory.mktemp("undisturbed"), inputs)
        run = replace(run, zero=replace(run.zero, **zero))
        return run, on_ranks(2, run)

    return trained


def run_in(folder: Path, inputs: Path) -> StageRun:
    pictures, documents = inputs / "tokens", inputs / "documents"
    held_out = build_row_index(RowSelection(pictures, "score >= 0.8"))
    return StageRun(
        stage=STAGE,
        stage_number=1,
        seed=0,
        zero=ZeroConfig(zero_stage=3, persistence_threshold=0, dtype="float32"),
        initial_model=inputs / "base",
        codebook_size=CODEBOOK,
        model_options=ModelOptions(embedding_noise_std=0.02, picture_position_std=0.02),
        initial_checkpoint=None,
        sources=(
            SourceRows("main", pictures, build_row_index(RowSelection(pictures, "", held_out="score >= 0.8")), 3.0),
            SourceRows("documents", documents, build_row_index(RowSelection(documents, "", (), STAGE.seq_len)), 1.0),
        ),
        held_out=(SourceRows("main", pictures, held_out),),
        samples=SamplePrompts([[11], [12, 13]], 9, HighResolution(Role.HIGH_1, 4, 16), inputs / "vq"),
        instruction_ids={"en": [5, 6, 7], "zh": [8, 9]},
        end_id=END_ID,
        output=folder / "stage1",
        checkpoints=str(folder / "stage1" / "checkpoints"),
        recipe_sha256="recipe",
    )
