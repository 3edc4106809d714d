"""Makes a checkout with a small recipe, and a small VQ-GAN."""

import shutil
import subprocess
from pathlib import Path

from diffusers import VQModel

from tests.support.checkout import CHECKOUT
from tests.support.past_run import PAST_RUN
from tests.support.pictures import noise_png, write_tar
from tokenization.config.vqgan import VqganConfig
from tokenization.vqgan.model import build_vqgan

RECIPE = """
from dataclasses import replace
from pipeline.config import (
    CorpusConfig,
    EvaluationConfig,
    LanguageExpertConfig,
    Recipe,
    Source,
    StageConfig,
    TokenizationConfig,
    ZeroConfig,
)

def recipe():
    first = StageConfig(
        purpose="first", sources={{"main": Source(where="score >= 0")}}, steps=3,
        task_shares={{"text_to_image": 0.5, "captioning": 0.5}},
        global_batch_size=8, micro_batch_size=4, seq_len=160, row_multiple=8, save_every_steps=2, log_every_steps=1,
    )
    return Recipe(
        name="demo", corpora={{"main": CorpusConfig(path={corpus!r})}}, vqgan_folder={vqgan!r},
        text_tokenizer={tokenizer!r}, tokenization=TokenizationConfig(size_px=32, encode_batch_size=4),
        language_expert=LanguageExpertConfig(
            vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, steps=2, batch_size=2, seq_len=32,
        ),
        stages=(first, replace(first, purpose="second", steps=2)),
        zero=ZeroConfig(persistence_threshold=0),
        evaluation=EvaluationConfig(batch_size=8, max_caption_ids=4, grid_pictures=3),
        heartbeat_s=1.0,
    )
"""


ROWS = 20


def small_checkout(folder: Path) -> Path:
    """Copies the checkout with a small `demo` recipe, and makes its corpus next to the copy."""
    checkout, corpus, vqgan = folder / "checkout", folder / "corpus", folder / "vq"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    for name in filter(None, tracked.stdout.split("\0")):
        target = checkout / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / name, target)
    small_vqgan(1.0).save_pretrained(vqgan)
    samples = [
        (f"{row:09d}", noise_png(row), {"caption_en": f"picture {row}", "caption_zh": f"图{row}", "score": row})
        for row in range(ROWS)
    ]
    write_tar(corpus / "00000.tar", samples[:12])
    write_tar(corpus / "sub" / "00001.tar", [*samples[12:], ("broken", b"no picture", {"caption_en": "x"})])
    recipe = RECIPE.format(corpus=str(corpus), vqgan=str(vqgan), tokenizer=str(PAST_RUN / "tokenizer"))
    (checkout / "jobs" / "recipes" / "demo.py").write_text(f'"""A small demo."""\n{recipe}')
    return checkout


def small_vqgan(scale: float) -> VQModel:
    vqgan = build_vqgan(VqganConfig(block_out_channels=(8, 8, 8, 8, 8), latent_channels=4))
    vqgan.quantize.embedding.weight.data *= scale
    return vqgan
