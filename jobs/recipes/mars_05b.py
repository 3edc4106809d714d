"""MARS on one GPU of 24 to 80 GB, with a 0.5B language expert: Qwen2.5-0.5B, Qwen2-0.5B or Qwen3-0.6B. Planned, never
run on a GPU.

A day on an A100, two and a half on an L4, tokenization included. Put the language expert, a VQ-GAN of factor 16 with
8,192 codes and a corpus at the recipe's paths, or name others with --set. docs/your_corpus.md has the way from CC12M:

    jobs/train_stage.py --recipe mars_05b --dry-run --gpu L4
    jobs/tokenize.py --recipe mars_05b
    jobs/train_stage.py --recipe mars_05b --stage all

For Qwen3-0.6B:

    --set language_expert_folder=models/qwen3-0.6b --set text_tokenizer=models/qwen3-0.6b
    --set plan.language_expert_geometry=qwen3_0_6b

All values are this project's own choice, except those that the paper's model fixes.
"""

from dataclasses import replace

from pipeline.config import (
    MAIN,
    OPEN_MUSE,
    CorpusConfig,
    EvaluationConfig,
    PlanConfig,
    Recipe,
    ScalingConfig,
    Source,
    StageConfig,
    TokenizationConfig,
    Workers,
    ZeroConfig,
)

GLOBAL_BATCH_SIZE = 256
SAMPLES = (8_000_000, 2_000_000, 400_000)
"""A stage. Stage 1 sees a corpus of ten million pairs nearly once: 2e9 codes, 6 for each trained parameter."""

REFINED = "aesthetic >= 5.0 and clip >= 0.26"
"""Stage 2's better pairs. The columns are of side tables, see docs/your_corpus.md."""
DETAILED = f"{REFINED} and width >= 512 and height >= 512"
"""Stage 3's pictures."""
LARGE = "width >= 512 and height >= 512"
"""The pictures that are encoded at 512 px, too. Scores come later, in side tables, so that they cannot decide it."""
HELD_OUT = "sample_id.str.endswith('777')"
"""One row in a thousand, by its key's last digits: for validation and evaluation."""
SCORES = ("corpus/scores",)
"""Side tables with the columns of `REFINED`."""
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
        micro_batch_size=4,
        seq_len=4096,
        learning_rate=3e-4,
        warmup_steps=1000,
        checkpoint_every_layers=1,  # 24 GB hold four rows so, which keep a GPU busier than fewer without recomputation
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
        sources={MAIN: Source(where=REFINED, held_out=f"{REFINED} and {HELD_OUT}", side_tables=SCORES)},
        task_shares={"text_to_image": 0.9, "captioning": 0.1},
        steps=SAMPLES[1] // GLOBAL_BATCH_SIZE,
        learning_rate=1.5e-4,
        warmup_steps=300,
    )
    third = replace(
        second,
        purpose="detail: high-resolution codes from text and low-resolution codes",
        sources={MAIN: Source(where=DETAILED, held_out=f"{DETAILED} and {HELD_OUT}", side_tables=SCORES)},
        task_shares={"text_to_image": 0.2, "high_resolution": 0.8},
        steps=SAMPLES[2] // GLOBAL_BATCH_SIZE,
        window_shards=8,  # a row's high codes are 2 kB; see mars_7b
        high_resolution_group=8,
    )
    return Recipe(
        name="mars_05b",
        corpora={MAIN: CorpusConfig(path="corpus/shards")},
        vqgan=OPEN_MUSE,
        vqgan_folder="models/vqgan-f16-8192-laion",  # open-muse's own format
        text_tokenizer="models/qwen2.5-0.5b",
        language_expert_folder="models/qwen2.5-0.5b",
        tokenization=TokenizationConfig(
            size_px=256,
            size_hr_px=512,
            hr_where=LARGE,
            caption_columns={"caption": "en", "caption_zh": "zh"},  # img2dataset's, and a column beside it
            max_caption_ids=128,
            encoder_dtype="bfloat16",
        ),
        stages=(first, second, third),
        scaling=ScalingConfig(num_workers=1, use_gpu=True, cpus_per_worker=6),
        tokenizers=Workers(num_encoders=1, use_gpu=True),
        evaluation=EvaluationConfig(temperature=1.0, guidance_scale=4.0, max_caption_ids=64),
        zero=ZeroConfig(zero_stage=2),
        plan=PlanConfig(
            gpu="A100-80GB",
            language_expert_geometry="qwen2_0_5b",
            mean_caption_ids=30,
            budget_gpu_days=(3.0, 1.0, 0.7),
        ),
    )
