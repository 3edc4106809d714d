"""A small language expert for the demo: a Qwen2 with Qwen's whole vocabulary, trained on the captions.

The rest of the pipeline treats it like Qwen-7B: an ordinary Qwen2 checkpoint that is loaded and frozen.
"""

import json
import math
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2ForCausalLM,
    get_cosine_schedule_with_warmup,
)
from transformers.utils import logging as transformers_logging

from pipeline.config.language_expert import LanguageExpertConfig
from pipeline.config.stage import INSTRUCTIONS
from pipeline.model.loading import qwen2_config
from tokenization.dtypes import fast_autocast
from tokenization.files.room import naming_full_disk
from tokenization.text_tokenizer import end_of_text_id, text_ids

TRAINING_FILE = "training.json"
"""File with the settings and the last step's figures, next to the weights."""


def train_language_expert(
    config: LanguageExpertConfig,
    captions: list[dict[str, str]],
    texts: list[list[list[int]]],
    tokenizer: PreTrainedTokenizerFast,
    output: Path,
    report: Callable[[dict[str, float]], None],
) -> None:
    """Trains on the captions and saves a Qwen2 checkpoint with its tokenizer. The folder appears only when complete.

    There are three kinds of text: one of `texts`, whose positions leave a gap for each picture; a caption, with and
    without an instruction; and an instruction, blanks, one of the picture's captions, more blanks, and the caption that
    the instruction asks for, so that attention learns to copy a meaning from an earlier position. Documents are
    concatenated into rows of `seq_len`, as usual in pretraining.

    The embedding rows of ids that never occur are zero, and the training softmax includes them: if it left them out,
    148,000 untrained rows would outweigh every real answer at inference. A blank is such an id.

    Args:
        config: model geometry and training schedule.
        captions: the captions of each picture by language.
        texts: ids between the pictures of each interleaved document.
        tokenizer: Qwen's tokenizer.
        output: folder to write.
        report: called with step and loss.
    """
    torch.manual_seed(config.seed)
    generator = np.random.default_rng(config.seed)
    end_id = end_of_text_id(tokenizer)
    pairs = _pairs(captions, tokenizer, end_id)
    whole = [[np.asarray(part, np.int64) for part in [*text[:-1], [*text[-1], end_id]]] for text in texts]
    used = np.unique(np.concatenate([ids for document in [*whole, *pairs] for ids in document]))
    pairs = [tuple(np.searchsorted(used, ids) for ids in pair) for pair in pairs]
    whole = [[np.searchsorted(used, part) for part in text] for text in whole]

    small = Qwen2ForCausalLM(qwen2_config(config, len(used) + 1))
    small.set_attn_implementation("eager")  # on a CPU, sdpa's backward takes several times as long
    small.model.embed_tokens.weight.data *= config.embedding_std / small.config.initializer_range
    num_unseen, blank = config.vocab_size - len(used), len(used)
    small.model.embed_tokens.weight.data[blank] = 0
    small.model.embed_tokens.weight.register_hook(lambda grad: grad.index_fill(0, torch.tensor([blank]), 0))
    optimizer = torch.optim.AdamW(
        small.parameters(), lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )
    schedule = get_cosine_schedule_with_warmup(optimizer, config.steps // 10, config.steps)
    for step in range(1, config.steps + 1):
        loss = _loss(small, *_rows(pairs, whole, blank, config, generator), num_unseen)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(small.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % config.log_every_steps == 0 or step == config.steps:
            report({"step": step, "loss": loss.item()})
    _save(small, config, used, tokenizer, output, {"step": config.steps, "loss": loss.item()})


Pair = tuple[np.ndarray, ...]
"""Ids of an instruction, of a caption of the picture, and of the caption the instruction asks for."""


def _pairs(captions: list[dict[str, str]], tokenizer: PreTrainedTokenizerFast, end_id: int) -> list[Pair]:
    instructions = {language: np.asarray(tokenizer(text)["input_ids"]) for language, text in INSTRUCTIONS.items()}
    pairs: list[Pair] = []
    for by_language in captions:
        lines = text_ids(tokenizer, list(by_language.values()))
        ids = {language: np.asarray(line) for language, line in zip(by_language, lines, strict=True)}
        for language in filter(ids.__contains__, instructions):
            target = np.append(ids[language], end_id)
            pairs += [(instructions[language], source, target) for source in ids.values()]
    return pairs


def _rows(
    pairs: list[Pair],
    texts: list[list[np.ndarray]],
    blank: int,
    config: LanguageExpertConfig,
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns rows cut from concatenated random documents, and their positions: int64 [batch_size, seq_len + 1]."""
    wanted, parts = config.batch_size * (config.seq_len + 1), []
    skipped: list[np.ndarray] = []
    while wanted > 0:
        instruction, source, target = pairs[generator.integers(len(pairs))]
        gaps = np.zeros(0, np.int64)
        if texts and generator.random() < config.text_share:
            document = texts[generator.integers(len(texts))]
            gaps = generator.integers(config.max_gap + 1, size=len(document))
        elif generator.random() < config.plain_share:
            document = [instruction, target] if generator.random() < 0.5 else [target]
        else:
            before, after = (np.full(count, blank) for count in generator.integers(config.max_blanks + 1, size=2))
            document = [instruction, before, source, after, target]
        parts += document
        steps = np.ones(sum(len(part) for part in document), np.int64)
        if len(gaps):
            steps[np.cumsum([len(part) for part in document[:-1]])] += gaps[1:]
        skipped.append(steps)
        wanted -= len(steps)
    shape = (config.batch_size, config.seq_len + 1)
    rows, advances = (np.concatenate(each)[: np.prod(shape)].reshape(shape) for each in (parts, skipped))
    return rows, advances.cumsum(1) - advances[:, :1]


def _loss(model: Qwen2ForCausalLM, rows: np.ndarray, positions: np.ndarray, num_unseen: int) -> Tensor:
    """Cross-entropy over the whole vocabulary without blanks. The small table's last row represents all unseen ids."""
    ids = torch.from_numpy(rows)
    labels = ids[:, 1:].flatten()
    with fast_autocast("cpu"):
        # Without a mask, transformers treats a skipped position as the start of another sequence.
        everything = torch.ones_like(ids[:, :-1])
        logits = model(ids[:, :-1], everything, torch.from_numpy(positions[:, :-1])).logits.float().flatten(0, 1)
    unseen = logits.shape[1] - 1
    logits = torch.cat([logits[:, :unseen], logits[:, unseen:] + math.log(num_unseen)], dim=1)
    return F.cross_entropy(logits, labels, ignore_index=unseen)


def _save(
    small: Qwen2ForCausalLM,
    config: LanguageExpertConfig,
    used: np.ndarray,
    tokenizer: PreTrainedTokenizerFast,
    output: Path,
    figures: dict[str, float],
) -> None:
    """Writes the model in bfloat16, with its trained rows put back into the table of the whole vocabulary."""
    whole = Qwen2ForCausalLM(qwen2_config(config, config.vocab_size))
    state = small.state_dict()
    table = whole.model.embed_tokens.weight.data
    table.zero_()
    table[torch.from_numpy(used)] = state["model.embed_tokens.weight"][:-1]
    state["model.embed_tokens.weight"] = state["lm_head.weight"] = table
    whole.load_state_dict(state)
    transformers_logging.disable_progress_bar()
    whole.config.eos_token_id = end_of_text_id(tokenizer)
    partial = output.with_name(f".{output.name}.{uuid.uuid4().hex}")
    try:
        with naming_full_disk(output, partial):
            whole.to(torch.bfloat16).save_pretrained(partial)
            tokenizer.save_pretrained(partial)
            (partial / TRAINING_FILE).write_text(json.dumps(figures | {"config": asdict(config)}, indent=2))
        shutil.rmtree(output, ignore_errors=True)
        os.replace(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
