"""A stage that trains on random tokens, for benchmarks, which measure only the work."""

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from pipeline.architecture.mars_config import MarsConfig
from pipeline.config.stage import MAIN, StageConfig
from pipeline.config.zero import ZeroConfig
from pipeline.data.row_index import SourceRows
from pipeline.data.row_selection import RowSelection, build_row_index
from pipeline.training.stage_run import StageRun
from tokenization.table.token_table import MANIFEST_FILE, Fingerprint
from tokenization.table.token_writing import write_token_shard

SHARD_ROWS = 512


def synthetic_run(
    folder: Path, config: MarsConfig, stage: StageConfig, zero: ZeroConfig, text_ids: int, num_codes: int
) -> StageRun:
    """Writes a random language expert and random token shards for one epoch of the stage into `folder`."""
    language_expert, tokens = folder / "lm", folder / "tokens"
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config.language_expert(), dtype=getattr(torch, zero.dtype))
    model.save_pretrained(language_expert)
    generator = np.random.default_rng(0)
    captions = {"caption_en": "en"}
    shape = [1, 16, 16, 3]
    fingerprint = Fingerprint("", "", {}, zero.dtype, shape, config.codebook_size, num_codes, text_ids, captions)
    num_rows = stage.steps * stage.global_batch_size
    for start in range(0, num_rows, SHARD_ROWS):
        rows = [
            {
                "sample_id": f"{number:08d}",
                "codes": generator.integers(0, config.codebook_size, num_codes).astype(np.uint16),
                "captions": [
                    {
                        "lang": "en",
                        "text": "",
                        "ids": generator.integers(0, config.text_vocab_size, text_ids).tolist(),
                        "truncated": False,
                    }
                ],
            }
            for number in range(start, min(start + SHARD_ROWS, num_rows))
        ]
        write_token_shard(tokens / f"{start // SHARD_ROWS:05d}.parquet", rows, fingerprint)
    (tokens / MANIFEST_FILE).write_text("{}")
    return StageRun(
        stage=stage,
        stage_number=1,
        seed=0,
        zero=zero,
        initial_model=language_expert,
        codebook_size=config.codebook_size,
        model_options=config.options,
        initial_checkpoint=None,
        held_out=(),
        sources=(SourceRows(MAIN, tokens, build_row_index(RowSelection(tokens))),),
        instruction_ids={"en": [1]},
        end_id=0,
        output=folder / "stage1",
        checkpoints=str(folder / "stage1" / "checkpoints"),
        recipe_sha256="",
    )
