"""A small language expert for the demo: a Qwen2 with Qwen's whole vocabulary, trained on the captions.

Everything after it treats it as it would treat Qwen-7B: an ordinary Qwen2 checkpoint, loaded and frozen.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from pipeline.sequences import INSTRUCTIONS


@dataclass(frozen=True)
class LanguageExpertConfig:
    """Geometry (as in the Qwen2 config) and schedule of the demo's language expert."""

    vocab_size: int = 151_936
    hidden_size: int = 192
    intermediate_size: int = 640
    num_hidden_layers: int = 6
    num_attention_heads: int = 3
    num_key_value_heads: int = 3
    steps: int = 200
    batch_size: int = 16
    seq_len: int = 128
    learning_rate: float = 2e-3
    warmup_steps: int = 20
    log_every_steps: int = 25
    seed: int = 0


def train_language_expert(
    config: LanguageExpertConfig,
    captions: list[dict[str, str]],
    tokenizer: PreTrainedTokenizerBase,
    output: Path,
    report: Callable[[dict[str, float]], None],
) -> None:
    """Trains on the captions and saves a Qwen2 checkpoint with its tokenizer, whole or not at all.

    Three kinds of text: a caption; an instruction followed by the picture's other caption and then this one, so
    that attention learns to fetch a meaning from what stands before; and the same from the caption itself.
    Documents stand one after the other in rows of `seq_len`, as in any pretraining. Only the rows of ids that occur are trained: the others keep their initial values.

    Args:
        config: geometry and schedule.
        captions: for each picture its captions by language.
        tokenizer: Qwen's.
        output: the folder to write.
        report: gets step and loss.
    """
    torch.manual_seed(config.seed)
    generator = np.random.default_rng(config.seed)
    documents = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in _documents(captions)]
    used = np.unique(np.concatenate(documents))
    compact = [np.searchsorted(used, document) for document in documents]

    small = Qwen2ForCausalLM(_qwen2_config(config, len(used)))
    optimizer = torch.optim.AdamW(small.parameters(), lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.steps, pct_start=config.warmup_steps / config.steps
    )
    for step in range(1, config.steps + 1):
        loss = _loss(small, _rows(compact, config, generator))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(small.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % config.log_every_steps == 0 or step == config.steps:
            report({"step": step, "loss": loss.item()})
    _save(small, config, used, tokenizer, output)


def _documents(captions: list[dict[str, str]]) -> list[str]:
    documents = []
    for by_language in captions:
        for language, text in by_language.items():
            documents.append(text)
            if language in INSTRUCTIONS:
                documents += [f"{INSTRUCTIONS[language]}{source}\n{text}" for source in by_language.values()]
    return documents


def _rows(documents: list[np.ndarray], config: LanguageExpertConfig, generator: np.random.Generator) -> np.ndarray:
    """Random documents one after the other, cut into rows: int64 [batch_size, seq_len + 1]."""
    wanted, parts = config.batch_size * (config.seq_len + 1), []
    while wanted > 0:
        parts.append(documents[generator.integers(len(documents))])
        wanted -= len(parts[-1])
    return np.concatenate(parts)[: config.batch_size * (config.seq_len + 1)].reshape(config.batch_size, -1)


def _loss(model: Qwen2ForCausalLM, rows: np.ndarray) -> Tensor:
    ids = torch.from_numpy(rows)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(ids[:, :-1]).logits
    return F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())


def _save(
    small: Qwen2ForCausalLM,
    config: LanguageExpertConfig,
    used: np.ndarray,
    tokenizer: PreTrainedTokenizerBase,
    output: Path,
) -> None:
    """Writes the model with its trained rows put back into the whole vocabulary's table, in bfloat16."""
    whole = Qwen2ForCausalLM(_qwen2_config(config, config.vocab_size))
    state = small.state_dict()
    table = whole.model.embed_tokens.weight.data
    table[torch.from_numpy(used)] = state["model.embed_tokens.weight"]
    state["model.embed_tokens.weight"] = state["lm_head.weight"] = table
    whole.load_state_dict(state)
    whole.config.eos_token_id = tokenizer.eos_token_id
    whole.to(torch.bfloat16).save_pretrained(output)
    tokenizer.save_pretrained(output)


def _qwen2_config(config: LanguageExpertConfig, vocab_size: int) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
