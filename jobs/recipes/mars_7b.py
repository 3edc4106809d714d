"""The paper's model: Qwen-7B, 64 A100 80 GB. Planned, never run: the settings are what is computed and simulated.

The paper gives 200M pairs for stage 1 at 256 px (arXiv 2407.07614); 50M for stage 2 and 10M triples up to 1024 px for
stage 3 are recalled, not confirmed; everything else here is this project's own choice.

    jobs/train_stage.py --recipe mars_7b --root /shared/runs --stage 1
"""

from dataclasses import replace

from jobs.common.recipe import CorpusConfig, Recipe
from pipeline.deepspeed_engine import ZeroConfig
from pipeline.ray_training import ScalingConfig
from pipeline.stage_config import StageConfig
from tokenization.shard_rows import TokenizationConfig
from tokenization.workers import Workers

GLOBAL_BATCH_SIZE = 2048


def recipe() -> Recipe:
    """The recipe."""
    first = StageConfig(
        purpose="align image and text in both directions",
        task_shares={"text_to_image": 0.5, "captioning": 0.5},
        steps=200_000_000 // GLOBAL_BATCH_SIZE,
        global_batch_size=GLOBAL_BATCH_SIZE,
        micro_batch_size=1,
        seq_len=4096,
        learning_rate=1e-4,
        warmup_steps=2000,
        checkpoint_every_layers=1,
        attention="flex_attention",
        compile_layers=True,
        save_every_steps=500,
    )
    second = replace(
        first,
        purpose="refine text to image",
        task_shares={"text_to_image": 0.9, "captioning": 0.1},
        steps=50_000_000 // GLOBAL_BATCH_SIZE,
        learning_rate=5e-5,
    )
    third = replace(
        second,
        purpose="detail: high-resolution codes from text and low-resolution codes",
        task_shares={"text_to_image": 0.2, "high_resolution": 0.8},
        steps=10_000_000 // GLOBAL_BATCH_SIZE,
        row_multiple=32,  # rows of one sample have little text
        seq_len=4992,  # one sample: up to 512 text ids, 258 of the low picture, K openers, 4,096 - K high codes
        high_resolution_role="high_2",
        high_resolution_group=16,
    )
    return Recipe(
        name="mars_7b",
        corpora={"main": CorpusConfig(path="corpus")},
        vqgan_folder="models/vqgan-f16-8192",
        language_expert_folder="models/qwen-7b-as-qwen2",
        tokenization=TokenizationConfig(size_px=256, max_caption_ids=512, encoder_dtype="bfloat16"),
        stages=(first, second, third),
        scaling=ScalingConfig(num_workers=64, use_gpu=True, cpus_per_worker=8),
        tokenizers=Workers(num_encoders=64, use_gpu=True),
        zero=ZeroConfig(zero_stage=3, frozen_whole=True),  # on paper: see docs/performance.md
    )
