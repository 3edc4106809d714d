"""A small stage trained on several processes of this machine."""

import itertools
import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from transformers import Qwen2Config, Qwen2ForCausalLM

from pipeline.checkpoints.manifest import newest_complete
from pipeline.config.stage import StageConfig
from pipeline.config.vocabulary import Role
from pipeline.config.zero import ZeroConfig
from pipeline.data.row_index import RowSelection, SourceRows, build_row_index
from pipeline.errors import CorruptionError, InputError, NonFiniteError, StoppedError
from pipeline.generation.pictures import HighResolution
from pipeline.training.loop import train_stage
from pipeline.training.samples import SamplePrompts
from pipeline.training.stage_run import StageRun
from pipeline.training.stop_request import StopRequest
from tests.support.small_models import CODEBOOK, END_ID, TEXT_VOCAB
from tests.support.tokens import write_documents, write_tokens
from tokenization.config.vqgan import VqganConfig
from tokenization.vqgan.model import build_vqgan

VQGAN = VqganConfig(block_out_channels=(8, 8, 8, 8, 8), latent_channels=4, codebook_size=CODEBOOK)


STAGE = StageConfig(
    purpose="test",
    task_shares={"text_to_image": 0.4, "captioning": 0.3, "high_resolution": 0.3},
    high_resolution_group=4,
    steps=6,
    global_batch_size=8,
    micro_batch_size=1,
    seq_len=64,
    row_multiple=8,
    learning_rate=1e-3,
    warmup_steps=2,
    table_rate_factor=2.0,
    save_every_steps=3,
    validate_every_steps=2,
    sample_every_steps=3,
    sample_prompts=("a", "b c"),
)


@pytest.fixture
def run(tmp_path) -> StageRun:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=TEXT_VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM._from_config(config, dtype=torch.float32).save_pretrained(tmp_path / "base")
    write_tokens(tmp_path / "tokens")
    write_documents(tmp_path / "documents")
    build_vqgan(VQGAN).save_pretrained(tmp_path / "vq")
    pictures, documents = tmp_path / "tokens", tmp_path / "documents"
    held_out = build_row_index(RowSelection(pictures, "score >= 0.8"))
    return StageRun(
        stage=STAGE,
        stage_number=1,
        seed=0,
        zero=ZeroConfig(zero_stage=3, persistence_threshold=0, dtype="float32"),
        base=tmp_path / "base",
        codebook_size=CODEBOOK,
        model_options={"embedding_noise_std": 0.02, "picture_position_std": 0.02},
        initial_checkpoint=None,
        sources=(
            SourceRows("main", pictures, build_row_index(RowSelection(pictures, "", held_out="score >= 0.8")), 3.0),
            SourceRows("documents", documents, build_row_index(RowSelection(documents, "", (), STAGE.seq_len)), 1.0),
        ),
        held_out=(SourceRows("main", pictures, held_out),),
        samples=SamplePrompts([[11], [12, 13]], 9, HighResolution(Role.HIGH_1, 4, 16), tmp_path / "vq", "float32"),
        instruction_ids={"en": [5, 6, 7], "zh": [8, 9]},
        end_id=END_ID,
        output=tmp_path / "stage1",
        checkpoints=str(tmp_path / "stage1" / "checkpoints"),
        recipe_sha256="recipe",
    )


def on_ranks(
    world_size: int,
    run: StageRun,
    stop_after: int | None = None,
    before_step: Callable[[int, int], None] | None = None,
    environment: dict[str, str] | None = None,
    stop: tuple[int, StopRequest] | None = None,
) -> list[dict]:
    """Trains on gloo processes; returns rank 0's figures. `before_step` is called with the rank and the step, from 0:
    before any. `stop` is asked for at the end of a step, by its number."""
    result = run.output.with_name(f"figures-{os.urandom(4).hex()}.pt")
    spawn(_rank, world_size, world_size, free_port(), run, result, stop_after, before_step, environment or {}, stop)
    return torch.load(result, weights_only=False)


def spawn(rank: Callable, world_size: int, *args: Any) -> None:
    """Runs a process a rank, forked from one that has imported what all of them need."""
    multiprocessing.set_forkserver_preload(["deepspeed", "transformers", __name__])
    mp.start_processes(rank, args, nprocs=world_size, start_method="forkserver")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def join(rank: int, world_size: int, port: int) -> None:
    """Joins a gloo group that checks every collective against the other ranks'."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(world_size), "LOCAL_SIZE": str(world_size), "TORCH_DISTRIBUTED_DEBUG": "DETAIL"}
    dist.init_process_group("gloo")


def _rank(
    rank: int,
    world_size: int,
    port: int,
    run: StageRun,
    result: Path,
    stop_after: int | None,
    before_step: Callable[[int, int], None] | None,
    environment: dict[str, str],
    stop: tuple[int, StopRequest] | None,
) -> None:
    os.environ |= environment
    join(rank, world_size, port)
    figures: list[dict] = []
    _watch_steps(rank, stop_after, before_step)
    asked = (lambda: stop[1] if figures and figures[-1]["step"] >= stop[0] else None) if stop else None
    try:
        train_stage(run, torch.device("cpu"), figures.append, partial(_note, run), asked)
    except _Killed:
        pass
    except (NonFiniteError, CorruptionError, InputError, StoppedError) as error:
        if rank == 0:
            _note(run, f"{type(error).__name__}: {error}")
    if rank == 0:
        torch.save(figures, result)
        if stop_after is not None:
            wait_for_checkpoint(run, figures[-1]["step"])
    dist.barrier()
    os._exit(0)  # the process groups that DeepSpeed made would otherwise wait for each other


def _note(run: StageRun, line: str) -> None:
    with Path(f"{run.output}.told").open("a") as file:
        file.write(line + "\n")


def wait_for_checkpoint(run: StageRun, steps: int) -> None:
    """It is written beside the training, and a process that ends at once would cut it off."""
    due = steps // run.stage.save_every_steps * run.stage.save_every_steps
    while (found := newest_complete(run.checkpoints)) is None or found.manifest.step < due:
        time.sleep(0.1)


class _Killed(BaseException):
    pass


def _watch_steps(rank: int, stop_after: int | None, before_step: Callable[[int, int], None] | None) -> None:
    """Stops the loop when it starts a later step than `stop_after`, as a kill between two checkpoints would."""
    import pipeline.training.loop as loop

    real, count = loop.train_step, itertools.count(1)
    if before_step:
        before_step(rank, 0)

    def counted(*args):
        number = next(count)
        if stop_after is not None and number > stop_after:
            raise _Killed
        if before_step:
            before_step(rank, number)
        return real(*args)

    loop.train_step = counted


def named(run: StageRun, name: str) -> StageRun:
    """The same run in another folder."""
    output = run.output.with_name(name)
    return replace(run, output=output, checkpoints=str(output / "checkpoints"))


def losses(figures: list[dict]) -> list[float]:
    return [
        value for each in figures for name, value in sorted(each.items()) if name.startswith(("loss/", "validation/"))
    ]
