"""Trains a run's own small language expert, as one Ray task."""

import json
from dataclasses import asdict
from typing import Any

import ray
import torch
from ray.actor import ActorProxy

from pipeline.config.recipe import Recipe
from pipeline.data.row_selection import RowSelection, build_row_index
from pipeline.data.token_reader import caption_texts, document_texts
from pipeline.errors import UsageError
from pipeline.ledger.account import Counts
from pipeline.ledger.actor import LedgerActor
from pipeline.runs.attempt import connect_run, ledger_attempt
from pipeline.runs.paths import RunPaths
from pipeline.runtime.actors import actor_here
from pipeline.runtime.messages import Messages, relaying_messages
from pipeline.runtime.placement import reserved
from pipeline.runtime.terminal import say
from pipeline.training.language_expert import TRAINING_FILE, train_language_expert
from tokenization.table.queries import non_number_messages
from tokenization.table.token_table import list_token_shards
from tokenization.text_tokenizer import load_text_tokenizer


def make_language_expert(recipe: Recipe, paths: RunPaths) -> None:
    """Trains the run's language expert if it is missing, on the captions and documents of the recipe's corpora.

    Raises:
        UsageError: the recipe names a language expert, or the run's own was trained with other settings.
        InputError: a corpus is not tokenized.
    """
    if recipe.language_expert_folder:
        raise UsageError(f"recipe {recipe.name!r} uses {recipe.language_expert_folder!r}; there is nothing to train")
    if (paths.language_expert / TRAINING_FILE).exists():
        made_with = json.loads((paths.language_expert / TRAINING_FILE).read_text()).get("config", {})
        wanted = asdict(recipe.language_expert)
        if other := [name for name, value in wanted.items() if made_with.get(name) != value]:
            raise UsageError(
                f"the language expert in {str(paths.language_expert)!r} was trained with another {', '.join(other)}; "
                "undo the change, remove the folder, or choose another --root"
            )
        say(f"language expert: already in {paths.language_expert}")
        return
    for name in recipe.corpora:
        list_token_shards(paths.tokens_of(name))
    connect_run(paths, use_gpu=False)
    cpus = max(int(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["Alive"])
    with ledger_attempt(paths, "train_lm", use_gpu=False) as ledger:
        steps = recipe.language_expert.steps
        messages = actor_here(Messages).remote()
        with relaying_messages(messages), reserved(cpus, together=True) as strategy:
            task: Any = ray.remote(num_cpus=cpus, scheduling_strategy=strategy)
            loss = ray.get(task(_train).remote(recipe, paths, cpus, messages, ledger))
        ledger.add.remote(Counts(steps=steps, samples=steps * recipe.language_expert.batch_size))
    say(f"language expert: loss {loss:.3f} after {steps} steps, in {paths.language_expert}")


def _train(
    recipe: Recipe,
    paths: RunPaths,
    num_threads: int,
    messages: ActorProxy[Messages],
    ledger: ActorProxy[LedgerActor],
) -> float:
    """Trains in this process. Returns the last loss."""
    torch.set_num_threads(num_threads)
    index = build_row_index(RowSelection(paths.tokens, recipe.language_expert.where))
    for message in non_number_messages(index.not_numbers, "language_expert.where"):
        ray.get(messages.log.remote(f"language expert: {message}"))
    captions = list(caption_texts(paths.tokens, index).values())
    tokenizer = load_text_tokenizer(recipe.text_tokenizer, paths.text)
    losses = []

    def report(figures: dict[str, float]) -> None:
        losses.append(figures["loss"])
        ray.get(messages.log.remote(f"language expert: step {figures['step']:.0f}  loss {figures['loss']:.3f}"))

    texts = [
        text
        for name in recipe.corpora
        for text in document_texts(paths.tokens_of(name), build_row_index(RowSelection(paths.tokens_of(name))))
    ]
    ledger.working.remote()
    train_language_expert(recipe.language_expert, captions, texts, tokenizer, paths.language_expert, report)
    return losses[-1]
