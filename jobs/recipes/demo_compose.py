"""Tests composition: OpenMoji's 323 subjects in six variants of skin tone, a tenth of the pairs never seen in training.

Takes an hour on two CPU cores, most of it training. Then it generates pictures for unseen pairs and
for an equal number of seen ones:

    jobs/demo.py --recipe demo_compose
"""

from dataclasses import replace

from pipeline.config import (
    MAIN,
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
SEEN = "composition == 'seen'"
"""1,744 of the 1,938 pairs (see `tokenization.demo.compositions`); neither expert trains on the others."""
SCORED = "0 <= composition_rank < 194"
"""All 194 unseen pairs, and as many of the seen."""
GROUPS = (
    "Emoticons",
    "Miscellaneous Symbols",
    "Miscellaneous Symbols and Pictographs",
    "Supplemental Symbols and Pictographs",
    "Transport and Map Symbols",
)
LISTS = CorpusConfig(made="lists", groups=GROUPS, size_px=128, high_resolution=False)
"""The demo's. They teach where a picture opens. None of their drawings is an unseen pair."""


def recipe() -> Recipe:
    stage = StageConfig(
        purpose="draw subjects in given skin tones",
        sources={MAIN: Source(weight=0.996, where=SEEN), "lists": Source(weight=0.004)},
        task_shares={"text_to_image": 0.95, "captioning": 0.05},  # a caption costs as much as seven pictures
        # With the subject before it, a tone is drawn as that subject was seen; alone, it can only mean the tone.
        caption_crop=0.5,
        # Otherwise only a picture's first codes learn the tone from the caption: later codes see it in the first ones.
        text_to_image_noise=1.0,
        task_weights={"captioning": 0.2, "opener": 0.0, "plain_text": 0.01},  # see the demo
        steps=4500,
        warmup_steps=40,
        global_batch_size=64,
        micro_batch_size=64,
        seq_len=240,
        row_multiple=8,
        learning_rate=2e-3,
        final_learning_rate=1e-5,
        table_rate_factor=8.0,
        attention="eager",
        spike_factor=10.0,  # memorised data has small losses, and a step has few captions
        save_every_steps=400,
        keep_every_steps=800,
        log_every_steps=20,
    )
    return Recipe(
        name="demo_compose",
        corpora={MAIN: CorpusConfig(), "lists": LISTS},
        tokenization=TokenizationConfig(encoder_dtype=DTYPE),
        vqgan=replace(PIXEL_SHUFFLE, synthetic_share=0.5),  # as the shipped one
        # With the demo's expert, light and dark had nearly equal vectors, and the model drew one for the other.
        language_expert=LanguageExpertConfig(where=SEEN, steps=900, plain_share=0.2, embedding_std=0.06),
        embedding_noise_std=0.05,
        picture_position_std=0.05,  # see the demo
        stages=(stage,),
        # A step takes half as long again in one process of two threads.
        scaling=ScalingConfig(num_workers=2, use_gpu=False, cpus_per_worker=1),
        tokenizers=Workers(num_encoders=2),
        # Without guidance it draws pairs that it has seen: 0.593 of the unseen ones are right instead of 0.750.
        evaluation=EvaluationConfig(
            batch_size=194, where=SCORED, composition=True, guidance_scale=2.5, documents="lists"
        ),
        zero=ZeroConfig(zero_stage=2, dtype=DTYPE),  # a model this small is not worth partitioning
        plan=PlanConfig(mean_caption_ids=6, documents={"lists": (3, 32)}, pictures=3953),  # measured
        heartbeat_s=10.0,
    )
