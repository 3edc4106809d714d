"""A small run that past code began: its first stage is finished, its second one was interrupted."""

from dataclasses import replace
from pathlib import Path

from pipeline.config import (
    CorpusConfig,
    EvaluationConfig,
    LanguageExpertConfig,
    PlanConfig,
    Recipe,
    ScalingConfig,
    Source,
    StageConfig,
    TokenizationConfig,
    VqganConfig,
    ZeroConfig,
)

HERE = Path(__file__).resolve().parent
HELD_OUT, DETAILED = "score % 8 == 7", "score >= 8"


def recipe() -> Recipe:
    """The recipe."""
    first = StageConfig(
        purpose="align image and text in both directions",
        sources={"shapes": Source(weight=0.75, held_out=HELD_OUT), "pages": Source(weight=0.25)},
        task_shares={"text_to_image": 0.5, "captioning": 0.5},
        steps=24,
        global_batch_size=8,
        micro_batch_size=4,
        seq_len=160,
        row_multiple=8,
        learning_rate=3e-3,
        warmup_steps=2,
        table_rate_factor=2.0,
        attention="eager",
        spike_factor=10.0,
        log_every_steps=1,
        save_every_steps=12,
        keep_checkpoints=1,
    )
    second = replace(
        first,
        purpose="detail: high-resolution codes from text and low-resolution codes",
        sources={
            "shapes": Source(weight=0.75, where=DETAILED, held_out=f"{DETAILED} and {HELD_OUT}"),
            "pages": Source(weight=0.25),
        },
        task_shares={"text_to_image": 0.3, "captioning": 0.2, "high_resolution": 0.5},
        high_resolution_group=4,
        high_resolution_noise=0.5,
        steps=40,
        global_batch_size=16,
        save_every_steps=16,
    )
    return Recipe(
        name="past",
        corpora={
            "shapes": CorpusConfig(path=str(HERE / "corpus")),
            "pages": CorpusConfig(path=str(HERE / "pages"), high_resolution=False, layout="documents"),
        },
        vqgan=VqganConfig(
            image_size_px=32,
            block_out_channels=(4, 4, 8, 8),
            latent_channels=4,
            codebook_size=32,
            norm_num_groups=4,
            steps=300,
            warmup_steps=10,
            decay_steps=100,
            noise_steps=120,
            decoder_only_steps=60,
            log_every_steps=100,
        ),
        vqgan_folder=str(HERE / "past" / "vq"),
        text_tokenizer=str(HERE / "tokenizer"),
        tokenization=TokenizationConfig(
            size_px=32, size_hr_px=64, hr_where=DETAILED, max_caption_ids=12, encode_batch_size=8
        ),
        language_expert=LanguageExpertConfig(
            vocab_size=300,
            hidden_size=16,
            intermediate_size=32,
            num_attention_heads=2,
            num_key_value_heads=1,
            steps=60,
            batch_size=4,
            seq_len=64,
        ),
        embedding_noise_std=0.05,
        picture_position_std=0.05,
        stages=(first, second),
        scaling=ScalingConfig(num_workers=2, cpus_per_worker=1),
        zero=ZeroConfig(persistence_threshold=0, dtype="float32"),
        evaluation=EvaluationConfig(batch_size=8, max_caption_ids=12, grid_pictures=4, documents="pages"),
        plan=PlanConfig(mean_caption_ids=5, documents={"pages": (2, 30)}),
        heartbeat_s=10.0,
    )
