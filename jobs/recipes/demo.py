"""The demo: OpenMoji drawings, a small language expert, two CPU workers, minutes.

Run it all with `make demo`, or job by job:
    python -m jobs.make_corpus && python -m jobs.tokenize && python -m jobs.train_lm && python -m jobs.train_stage --stage all
"""

from jobs.recipe import Recipe
from pipeline.deepspeed_engine import ZeroConfig
from pipeline.ray_training import ScalingConfig
from pipeline.stage_config import StageConfig

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
    batches = dict(
        where=TRAINED,
        global_batch_size=64,
        micro_batch_size=64,
        seq_len=160,
        row_multiple=8,
        learning_rate=2e-3,
        final_learning_rate=1e-4,
        log_every_steps=10,
        save_every_steps=100,
    )
    return Recipe(
        name="demo",
        stages=(
            StageConfig(
                purpose="align image and text in both directions",
                task_shares={"text_to_image": 0.5, "captioning": 0.5},
                steps=260,
                warmup_steps=20,
                **batches,
            ),
            StageConfig(
                purpose="refine text to image, keep captioning",
                task_shares={"text_to_image": 0.6, "captioning": 0.4},
                steps=160,
                warmup_steps=5,
                **(batches | {"learning_rate": 1e-3, "final_learning_rate": 1e-5}),
            ),
        ),
        scaling=ScalingConfig(num_workers=2, use_gpu=False, cpus_per_worker=1),
        zero=ZeroConfig(zero_stage=3, persistence_threshold=0),
        heartbeat_s=10.0,
    )
