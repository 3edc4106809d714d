"""The demo: OpenMoji drawings, a small language expert, two CPU workers, minutes.

Run it all with `make demo`, or job by job:
    python -m jobs.make_corpus && python -m jobs.tokenize && python -m jobs.train_lm
    python -m jobs.train_stage --stage all
    python -m jobs.generate && python -m jobs.evaluate && python -m jobs.report
"""

from dataclasses import replace

from jobs.common.recipe import EvaluationConfig, PlanConfig, Recipe
from pipeline.deepspeed_engine import ZeroConfig
from pipeline.language_expert import LanguageExpertConfig
from pipeline.ray_training import ScalingConfig
from pipeline.stage_config import StageConfig
from tokenization.shard_rows import TokenizationConfig
from tokenization.workers import Workers

GROUPS = (
    "Emoticons",
    "Miscellaneous Symbols",
    "Miscellaneous Symbols and Pictographs",
    "Supplemental Symbols and Pictographs",
    "Transport and Map Symbols",
)
DRAWINGS_PER_GROUP = 62
TRAINED = f"group in {list(GROUPS)} and 0 <= group_rank < {DRAWINGS_PER_GROUP}"
"""310 drawings without skin tone from five groups."""


def recipe() -> Recipe:
    """The demo's recipe."""
    first = StageConfig(
        purpose="align image and text in both directions",
        where=TRAINED,
        task_shares={"text_to_image": 0.6, "captioning": 0.4},
        task_weights={"text_to_image": 1.0, "captioning": 1.0, "opener": 0.002},
        steps=240,
        warmup_steps=20,
        global_batch_size=64,
        micro_batch_size=64,
        seq_len=160,
        row_multiple=8,
        learning_rate=2e-3,
        final_learning_rate=1e-3,
        table_rate_factor=8.0,
        attention="eager",
    )
    second = replace(
        first,
        purpose="refine text to image, keep captioning",
        task_shares={"text_to_image": 0.75, "captioning": 0.25},
        steps=120,
        warmup_steps=5,
        learning_rate=1e-3,
        final_learning_rate=1e-5,
    )
    return Recipe(
        name="demo",
        tokenization=TokenizationConfig(encoder_dtype="bfloat16"),
        language_expert=LanguageExpertConfig(where=TRAINED),
        embedding_noise_std=0.05,
        stages=(first, second),
        scaling=ScalingConfig(num_workers=2, use_gpu=False, cpus_per_worker=1),
        tokenizers=Workers(num_encoders=2),
        evaluation=EvaluationConfig(batch_size=160),
        zero=ZeroConfig(zero_stage=3),
        plan=PlanConfig(mean_caption_ids=6),  # the drawings' names
        heartbeat_s=10.0,
    )
