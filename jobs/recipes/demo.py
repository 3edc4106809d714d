"""The demo: OpenMoji drawings and illustrated lists of them, a small language expert, two CPU workers, minutes.

Run all of it with `make demo`, or job by job:
    python -m jobs.make_corpus && python -m jobs.tokenize && python -m jobs.train_lm
    python -m jobs.train_stage --stage all
    python -m jobs.generate && python -m jobs.evaluate && python -m jobs.report
"""

from dataclasses import replace

from pipeline.config import (
    PIXEL_SHUFFLE,
    CorpusConfig,
    EvaluationConfig,
    LanguageExpertConfig,
    PlanConfig,
    Recipe,
    ScalingConfig,
    Source,
    StageConfig,
    TokenizationConfig,
    Workers,
    ZeroConfig,
    fast_cpu_dtype,
)

DTYPE = fast_cpu_dtype()
"""bfloat16 where this CPU has it."""
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
HELD_OUT = f"group in {list(GROUPS)} and {DRAWINGS_PER_GROUP} <= group_rank < {DRAWINGS_PER_GROUP + 8}"
"""The next eight of each group, for validation."""
LISTS = CorpusConfig(made="lists", groups=GROUPS, size_px=128, high_resolution=False)


def recipe() -> Recipe:
    first = StageConfig(
        purpose="align image and text in both directions",
        sources={"drawings": Source(weight=0.98, where=TRAINED, held_out=HELD_OUT), "lists": Source(weight=0.02)},
        task_shares={"text_to_image": 0.55, "captioning": 0.45},
        # The lists alone teach where a picture opens. Captions taught that one may follow any name.
        task_weights={"opener": 0.0, "plain_text": 0.03},
        steps=180,
        warmup_steps=20,
        global_batch_size=64,
        micro_batch_size=64,
        seq_len=256,
        row_multiple=8,
        learning_rate=2e-3,
        final_learning_rate=1e-3,
        table_rate_factor=8.0,
        attention="eager",
        spike_factor=10.0,  # memorised data has small losses, and a step has few captions
    )
    second = replace(
        first,
        purpose="refine text to image, keep captioning",
        task_shares={"text_to_image": 0.65, "captioning": 0.35},
        steps=40,
        warmup_steps=5,
        learning_rate=1e-3,
        final_learning_rate=1e-5,
    )
    third = replace(
        second,
        purpose="detail: high-resolution codes from text and low-resolution codes",
        sources={"drawings": Source(weight=0.985, where=TRAINED, held_out=HELD_OUT), "lists": Source(weight=0.015)},
        task_shares={"high_resolution": 0.85, "captioning": 0.15},
        # A step has few captions and documents: at weight 1 their noise drowned the gradient of the high codes.
        task_weights=first.task_weights | {"captioning": 0.2, "document_text": 0.1},
        high_resolution_group=4,
        seq_len=416,
        high_resolution_noise=0.8,
        steps=420,
        global_batch_size=32,
        learning_rate=1.5e-3,
        final_learning_rate=1e-5,
    )
    return Recipe(
        name="demo",
        corpora={"drawings": CorpusConfig(), "lists": LISTS},
        tokenization=TokenizationConfig(encoder_dtype=DTYPE, size_hr_px=256, hr_where=f"{TRAINED} or {HELD_OUT}"),
        vqgan=replace(PIXEL_SHUFFLE, synthetic_share=0.5),  # as the shipped one
        # After 350 steps it wrote a fifth of the names that its context gave it, which limited the captions.
        language_expert=LanguageExpertConfig(where=TRAINED, steps=500, plain_share=0.2),
        embedding_noise_std=0.05,
        picture_position_std=0.12,  # two layers do not learn positions in the picture by themselves
        stages=(first, second, third),
        scaling=ScalingConfig(num_workers=2, use_gpu=False, cpus_per_worker=1),
        tokenizers=Workers(num_encoders=2),
        evaluation=EvaluationConfig(batch_size=160, documents="lists"),
        zero=ZeroConfig(zero_stage=3, dtype=DTYPE, frozen_whole=True),  # the text table was most of what was gathered
        plan=PlanConfig(mean_caption_ids=3, documents={"lists": (3, 32)}, pictures=3953, pictures_hr=350),  # measured
        heartbeat_s=10.0,
    )
