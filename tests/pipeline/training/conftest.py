"""A small stage."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from pipeline.config.vocabulary import Role
from pipeline.config.zero import ZeroConfig
from pipeline.data.row_index import RowSelection, SourceRows, build_row_index
from pipeline.generation.pictures import HighResolution
from pipeline.training.samples import SamplePrompts
from pipeline.training.stage_run import StageRun
from tests.support.ranks import STAGE, VQGAN
from tests.support.small_models import CODEBOOK, END_ID, TEXT_VOCAB
from tests.support.tokens import write_documents, write_tokens
from tokenization.vqgan.model import build_vqgan


@pytest.fixture
def run(tmp_path: Path) -> StageRun:
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
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path / "base")
    write_tokens(tmp_path / "tokens")
    write_documents(tmp_path / "documents")
    build_vqgan(VQGAN).save_pretrained(tmp_path / "vq")
    pictures, documents = tmp_path / "tokens", tmp_path / "documents"
    held_out = build_row_index(RowSelection(pictures, "score >= 0.8"))
    return StageRun(
        stage=STAGE,
        stage_number=1,
        seed=0,
        zero=ZeroConfig(zero_stage=3, persistence_threshold=0, dtype="float32"),
        base=tmp_path / "base",
        codebook_size=CODEBOOK,
        model_options={"embedding_noise_std": 0.02, "picture_position_std": 0.02},
        initial_checkpoint=None,
        sources=(
            SourceRows("main", pictures, build_row_index(RowSelection(pictures, "", held_out="score >= 0.8")), 3.0),
            SourceRows("documents", documents, build_row_index(RowSelection(documents, "", (), STAGE.seq_len)), 1.0),
        ),
        held_out=(SourceRows("main", pictures, held_out),),
        samples=SamplePrompts([[11], [12, 13]], 9, HighResolution(Role.HIGH_1, 4, 16), tmp_path / "vq", "float32"),
        instruction_ids={"en": [5, 6, 7], "zh": [8, 9]},
        end_id=END_ID,
        output=tmp_path / "stage1",
        checkpoints=str(tmp_path / "stage1" / "checkpoints"),
        recipe_sha256="recipe",
    )
