"""MARS on one node of 8 A100 80 GB (or H100), with a 1.5B language expert of the Qwen2 family. Planned, never run.

Two days at half of the A100's peak, four at a quarter. Put Qwen2-1.5B or Qwen2.5-1.5B, any corpus with English or
Chinese captions and a VQ-GAN of factor 16 with 8,192 codes at the recipe's paths, or name others with --set:

    jobs/train_stage.py --recipe mars_1b --dry-run
    jobs/tokenize.py --recipe mars_1b --root /shared/runs
    jobs/train_stage.py --recipe mars_1b --root /shared/runs --stage all

All values are this project's own choice, except those that the paper's model fixes.
"""

from dataclasses import replace

from pipeline.config import (
    MAIN,
    OPEN_MUSE,
    CorpusConfig,
    PlanConfig,
    Recipe,
    ScalingConfig,
    Source,
    StageConfig,
    TokenizationConfig,
    Workers,
    ZeroConfig,
)

GLOBAL_BATCH_SIZE = 1024
SAMPLES = (60_000_000, 15_000_000, 3_000_000)
"""A stage: some epochs of a public corpus of ten to twenty million pairs. Stage 1 has 15e9 codes, 11 for each trained
parameter: the visual expert starts from the language expert's weights, not from random ones."""

REFINED = "aesthetic >= 5.5 and clip >= 0.28"
"""Stage 2's better pairs. An example: the columns are the corpus's own, as img2dataset and LAION name them."""
DETAILED = f"{REFINED} and width >= 512 and height >= 512"
"""Stage 3's pictures, the only ones that are encoded at 512 px: not enlarged ones."""


HELD_OUT = "sample_id.str.endswith('777')"
"""One row in a thousand, by its key's last digits: for validation."""
SAMPLE_PROMPTS = (
    "a red bicycle leaning against a brick wall",
    "a cat asleep on a stack of books",
    "雪山下的湖",
    "夜市的小吃摊",
)


def recipe() -> Recipe:
    first = StageConfig(
        purpose="align image and text in both directions",
        sources={MAIN: Source(held_out=HELD_OUT)},
        task_shares={"text_to_image": 0.6, "captioning": 0.4},
        steps=SAMPLES[0] // GLOBAL_BATCH_SIZE,
        global_batch_size=GLOBAL_BATCH_SIZE,
        micro_batch_size=2,
        seq_len=4096,  # a dozen samples: the matrix products of a small model need many rows to fill a GPU
        learning_rate=2e-4,
        warmup_steps=2000,
        checkpoint_every_layers=0,  # memory suffices: nothing is recomputed
        attention="flex_attention",
        compile_layers=True,
        save_every_steps=1000,
        validate_every_steps=1000,
        sample_every_steps=1000,
        sample_prompts=SAMPLE_PROMPTS,
    )
    second = replace(
        first,
        purpose="refine text to image",
        sources={MAIN: Source(where=REFINED, held_out=f"{REFINED} and {HELD_OUT}")},
        task_shares={"text_to_image": 0.9, "captioning": 0.1},
        steps=SAMPLES[1] // GLOBAL_BATCH_SIZE,
        learning_rate=1e-4,
        warmup_steps=500,
    )
    third = replace(
        second,
        purpose="detail: high-resolution codes from text and low-resolution codes",
        sources={MAIN: Source(where=DETAILED, held_out=f"{DETAILED} and {HELD_OUT}")},
        task_shares={"text_to_image": 0.2, "high_resolution": 0.8},
        steps=SAMPLES[2] // GLOBAL_BATCH_SIZE,
        window_shards=8,  # a row's high codes are 2 kB; see mars_7b
        high_resolution_role="high_1",
        high_resolution_group=8,  # 1,024 high codes in 128 passes, half as many as the picture before takes
    )
    return Recipe(
        name="mars_1b",
        corpora={MAIN: CorpusConfig(path="corpus")},
        vqgan=OPEN_MUSE,
        vqgan_folder="models/vqgan-f16-8192-laion",  # open-muse's own format
        text_tokenizer="models/qwen2-1.5b",  # the rows equal Qwen-7B's, but the special tokens differ
        language_expert_folder="models/qwen2-1.5b",
        tokenization=TokenizationConfig(
            size_px=256,
            size_hr_px=512,  # 4 times the codes, at a quarter of what 1024 px would cost
            hr_where=DETAILED,
            max_caption_ids=256,
            encoder_dtype="bfloat16",
        ),
        stages=(first, second, third),
        scaling=ScalingConfig(num_workers=8, use_gpu=True, cpus_per_worker=8),
        tokenizers=Workers(num_encoders=8, use_gpu=True),
        zero=ZeroConfig(zero_stage=2),  # 2.9e9 parameters in bfloat16 fit whole: nothing to gather
        plan=PlanConfig(
            gpu="A100-80GB",
            language_expert_geometry="qwen2_1_5b",
            mean_caption_ids=77,
            budget_gpu_days=(20.0, 5.0, 5.0),
        ),
    )
