"""A starting model goes straight into ZeRO-3's partitions: no rank ever has it whole, and training is the same."""

import ctypes
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen3Config

from pipeline.checkpoints.manifest import finished_checkpoint
from pipeline.errors import InputError
from pipeline.model.loading import load_initial_model
from pipeline.runtime.compiled_ops import set_up_compilation
from pipeline.runtime.process_memory import MemoryGrowth
from pipeline.training.engine import unlink_shared_memory
from pipeline.training.stage_run import StageRun, starting_model
from pipeline.weights.language_expert_formats import open_language_expert
from pipeline.weights.starting_model import StartOptions, make_starting_model
from tests.support.ports import free_port
from tests.support.ranks import STAGE, join, losses, named, on_ranks, spawn
from tests.support.small_models import CODEBOOK, TEXT_VOCAB
from tests.support.trained_weights import trained_state

pytestmark = pytest.mark.slow

M_MMAP_THRESHOLD = -3
"""Of glibc's malloc.h."""
SHORT = replace(STAGE, steps=2, validate_every_steps=0, sample_every_steps=0, save_every_steps=2)


def started(run: StageRun) -> StageRun:
    """The run on a starting model made of its language expert."""
    start = run.initial_model.with_name("start")
    options = StartOptions(run.codebook_size, run.model_options, dtype=run.zero.dtype)
    make_starting_model(
        open_language_expert(run.initial_model), str(run.initial_model), options, start, lambda line: None
    )
    return replace(run, initial_model=start)


def test_training_from_a_starting_model_is_training_from_its_language_expert(run: StageRun, tmp_path: Path) -> None:
    run = replace(run, stage=SHORT, samples=None, held_out=())
    whole = on_ranks(2, run)
    run = started(run)
    partitioned = on_ranks(2, named(run, "partitioned"))
    assert losses(partitioned) == losses(whole)
    checkpoint = finished_checkpoint(named(run, "partitioned").checkpoints)
    state, other = trained_state(checkpoint), trained_state(finished_checkpoint(run.checkpoints))
    assert all(torch.equal(state[name], other[name]) for name in other)
    # With the language expert whole on every rank, its tensors are read whole.
    spawn(_load_rank, 2, free_port(), replace(run, zero=replace(run.zero, frozen_whole=True)), tmp_path / "loaded")
    loaded, *_ = torch.load(tmp_path / "loaded-0")
    base = dict(load_initial_model(run.initial_model, CODEBOOK, torch.float32, run.model_options).named_parameters())
    assert loaded.keys() - base.keys() == {"head.text_weight"}, "tied, it is the embedding"
    assert all(torch.equal(loaded[name], tensor) for name, tensor in base.items())


def test_a_qwen3_trains_on_partitions_as_it_does_whole(run: StageRun, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, head_dim=16)
    config = Qwen3Config(vocab_size=TEXT_VOCAB, num_key_value_heads=2, **sizes)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path / "qwen3")
    run = replace(run, stage=SHORT, samples=None, held_out=(), initial_model=tmp_path / "qwen3")
    whole = on_ranks(2, run)
    run = named(started(run), "partitioned")
    assert losses(on_ranks(2, run)) == losses(whole)
    state = trained_state(finished_checkpoint(run.checkpoints))
    start = dict(load_initial_model(run.initial_model, CODEBOOK, torch.float32, run.model_options).named_parameters())
    norms = [name for name in state if name.endswith(("q_norm.weight", "k_norm.weight"))]
    assert len(norms) == 4 and not any(torch.equal(state[name], start[name]) for name in norms)


def test_a_nodes_second_copy_is_of_the_weights_that_were_loaded(run: StageRun) -> None:
    """Four ranks as two nodes. DeepSpeed makes the copy before the files are read."""
    run = started(replace(run, stage=SHORT, samples=None, held_out=()))
    copies = [replace(run.zero, whole_layers=True, secondary_partition_size=size) for size in (1, 2)]
    found = [on_ranks(4, replace(named(run, f"copies {zero.secondary_partition_size}"), zero=zero)) for zero in copies]
    assert losses(found[0]) == losses(found[1])


def test_no_rank_ever_holds_the_whole_model_and_its_node_reads_it_once(run: StageRun, tmp_path: Path) -> None:
    """Its own half, one tensor of 7% of the model, and little else: a language expert held whole adds a quarter. One
    rank verifies all files, and what they and the others read then is in the node's page cache."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=8000,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
        tie_word_embeddings=False,
    )
    base = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    base.save_pretrained(tmp_path / "large")
    run = started(replace(run, initial_model=tmp_path / "large"))
    for path in run.initial_model.iterdir():
        out_of_page_cache(path)
    spawn(_load_rank, 2, free_port(), run, tmp_path / "loaded")
    whole, read = sum(path.stat().st_size for path in run.initial_model.glob("*.safetensors")), 0
    for rank in range(2):
        _, growth, held, from_disk = torch.load(tmp_path / f"loaded-{rank}")
        read += from_disk
        assert held == pytest.approx(whole / 2, rel=0.01)
        print(f"rank {rank}: {growth / whole:.2f} of the model at most, {held / whole:.2f} at the end")
        assert growth < 0.7 * whole, f"{growth / whole:.2f} of the model"
    print(f"both ranks: {read / whole:.3f} of the model from the disk")
    assert whole <= read < 1.05 * whole


def test_a_starting_model_that_changed_or_was_made_otherwise_is_refused(run: StageRun) -> None:
    run = started(run)
    with pytest.raises(InputError, match="was made with codebook_size 32, the recipe has 40"):
        load_initial_model(run.initial_model, 40, torch.float32, run.model_options)
    path = next(run.initial_model.glob("*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{path.name} has changed since it was made"):
        load_initial_model(run.initial_model, CODEBOOK, torch.float32, run.model_options)
    path.unlink()
    with pytest.raises(InputError, match=f"{path.name} is damaged"):
        load_initial_model(run.initial_model, CODEBOOK, torch.float32, run.model_options)


def out_of_page_cache(path: Path) -> None:
    """Has the next reader of a file read it from the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bytes_from_disk() -> int:
    """What this process has had read from disks so far."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["read_bytes"])


def _load_rank(rank: int, port: int, run: StageRun, result: Path) -> None:
    set_up_compilation()
    import deepspeed

    join(rank, 2, port)
    deepspeed.init_distributed("gloo")  # which maps some 70 MB a rank, for any model
    dist.barrier()
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**20)  # glibc by itself keeps freed blocks as large as these
    memory, before = MemoryGrowth(), bytes_from_disk()
    model, _ = starting_model(run, torch.device("cpu"))
    growth, from_disk = memory.peak_bytes(), bytes_from_disk() - before
    held = sum(parameter.ds_tensor.nbytes for parameter in model.parameters() if hasattr(parameter, "ds_tensor"))
    tensors = {name: buffer for name, buffer in model.named_buffers() if "inv_freq" not in name}
    if run.zero.frozen_whole:
        for name, parameter in model.named_parameters():
            with deepspeed.zero.GatheredParameters([parameter]):
                tensors[name] = parameter.detach().clone()
    torch.save((tensors, growth, held, from_disk), f"{result}-{rank}")
    unlink_shared_memory()
    dist.barrier()
    os._exit(0)
