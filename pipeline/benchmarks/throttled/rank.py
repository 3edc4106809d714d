"""One rank of a setting: measures its computation with collectives that move nothing, its links, and its real step."""

import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from pipeline.architecture.mars_config import MarsConfig
from pipeline.benchmarks.throttled.nodes import INTERFACE, address_of, enter
from pipeline.config.stage import Source, StageConfig
from pipeline.config.tasks import Kind, Task
from pipeline.config.zero import ZeroConfig
from pipeline.data.collate import MicroBatch, collate
from pipeline.data.sequences import SampleParts, SequenceBuilder
from pipeline.model.mars import MarsForCausalLM
from pipeline.runtime.rank import Rank
from pipeline.runtime.torch_private import join_fake_group
from pipeline.training.engine import Engine, accumulate, make_engine
from pipeline.training.objective import Objective
from pipeline.training.process import set_up_process

SIZES = {"hidden_size": 512, "intermediate_size": 1376, "num_attention_heads": 8, "num_key_value_heads": 8}
CAPTION_IDS, NUM_CODES, SAMPLES = 16, 64, 2
STAGE = StageConfig(
    purpose="compare predicted with measured steps",
    sources={"main": Source()},
    task_shares={"text_to_image": 0.5, "captioning": 0.5},
    steps=1,
    global_batch_size=1,
    attention="eager",
    checkpoint_every_layers=1,
)
KINDS = (Kind.TEXT_TO_IMAGE, Kind.CAPTIONING)
SETTLE, ROUNDS = 4, 5
"""Steps before and while it is measured: DeepSpeed records the order of modules first."""
PROBE_BYTES = (4 * 2**20, 24 * 2**20)
"""Sizes of the collectives by which links are measured, around those of a layer."""


@dataclass(frozen=True)
class Setting:
    """A way of training that is predicted and measured.

    Attributes:
        name: for tables.
        nodes, ranks_per_node: number of nodes, and of ranks on each.
        mbit_per_s: what a node sends in a second, at most.
        layers: of the model.
        micro_steps: of a step.
        zero: partitioning.
    """

    name: str
    nodes: int
    ranks_per_node: int
    mbit_per_s: float
    layers: int
    micro_steps: int
    zero: ZeroConfig

    @property
    def ranks(self) -> int:
        return self.nodes * self.ranks_per_node


@dataclass(frozen=True)
class Seconds:
    """Seconds of a rank's computation in a step, without collectives: of one micro-step, and of the update."""

    forward_s: float
    backward_s: float
    update_s: float


@dataclass(frozen=True)
class Probe:
    """A link as collectives of one kind see it: bytes of the whole tensor a second, and seconds a call."""

    bytes_per_s: float
    call_s: float


@dataclass(frozen=True)
class Measured:
    """The measurements of a rank with real collectives: a step, an all-gather, the reduction of the partitioning (a
    reduce-scatter under ZeRO-3, an all-reduce under ZeRO-2), and an all-gather inside a node (None if the node has one
    rank)."""

    step_s: float
    gather: Probe
    reduction: Probe
    inside: Probe | None


def config_of(setting: Setting) -> MarsConfig:
    """The sizes of the setting's model."""
    return MarsConfig(
        text_vocab_size=512, codebook_size=1024, max_position_embeddings=512, num_hidden_layers=setting.layers, **SIZES
    )


def measure_rank(number: int, setting: Setting, names: list[str], port: int, real: bool, result: Path) -> None:
    """Runs as one rank: with `real`, of a gloo group between the nodes `names`; else of a group that moves nothing.
    Rank 0 writes what it measured to `result`."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # what is gathered of nothing is garbage
    local = Rank(number, setting.ranks, number % setting.ranks_per_node, setting.ranks_per_node)
    set_up_process(local, torch.device("cpu"))
    if real:
        enter(names[number // setting.ranks_per_node])
        os.environ |= {"GLOO_SOCKET_IFNAME": INTERFACE, "MASTER_ADDR": address_of(0), "MASTER_PORT": str(port)}
        dist.init_process_group("gloo", rank=number, world_size=setting.ranks)
    else:
        join_fake_group(setting.ranks)
    engine, batches = _engine(setting), [_batch(config_of(setting), kind) for kind in KINDS]
    found = asdict(_with_links(setting, engine, batches) if real else _computation(engine, batches))
    if number == 0:
        result.write_text(json.dumps(found))
    if real:
        dist.barrier()
    os._exit(0)  # the process groups that DeepSpeed made would wait for each other at exit


def _end_with_parent() -> None:
    """Ends this process when the one that asked for it is gone, even if that was killed."""
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)


def _engine(setting: Setting) -> Engine:
    torch.manual_seed(0)
    made: MarsForCausalLM = AutoModelForCausalLM.from_config(config_of(setting), dtype=torch.float32)
    model = made.freeze_language_expert().train()
    model.set_attn_implementation(STAGE.attention)
    model.model.checkpoint_every = STAGE.checkpoint_every_layers
    model.gradient_checkpointing_enable()
    if setting.zero.frozen_whole:
        model = model.keep_frozen_whole()
    return make_engine(Objective(model), STAGE, replace(setting.zero, dtype="float32"))


def _batch(config: MarsConfig, kind: Kind) -> MicroBatch:
    random, builder = np.random.default_rng(0), SequenceBuilder(config.vocabulary, {"en": [0] * 7}, 0)
    samples = []
    for _ in range(SAMPLES):
        ids = random.integers(1, config.text_vocab_size, CAPTION_IDS).tolist()
        codes = random.integers(0, config.codebook_size, NUM_CODES).astype(np.uint16)
        samples.append(builder.sample(kind, SampleParts(ids, "en", codes, np.zeros(0, np.uint16))))
    return collate(kind, [samples], config.vocabulary, [1e-3] * len(Task), 8)


def _computation(engine: Engine, batches: list[MicroBatch]) -> Seconds:
    taken: list[tuple[float, float, float]] = []
    for _ in range(SETTLE + ROUNDS):
        started = time.monotonic()
        loss = engine(batches).loss
        ahead = time.monotonic()
        accumulate(engine, loss, last=True)
        back = time.monotonic()
        engine.step()
        taken.append((ahead - started, back - ahead, time.monotonic() - back))
    forward_s, backward_s, update_s = (median(each) for each in zip(*taken[SETTLE:], strict=True))
    return Seconds(forward_s, backward_s, update_s)


def _with_links(setting: Setting, engine: Engine, batches: list[MicroBatch]) -> Measured:
    def step() -> None:
        for number in range(1, setting.micro_steps + 1):
            accumulate(engine, engine(batches).loss, last=number == setting.micro_steps)
            engine.step()

    reduce = _reduce_scatter if setting.zero.zero_stage == 3 else _all_reduce
    gather, reduction = _probe(_gather, None), _probe(reduce, None)
    own = dist.get_rank() // setting.ranks_per_node
    inside = None
    if setting.ranks_per_node > 1:
        first = own * setting.ranks_per_node
        groups = [
            dist.new_group(list(range(start, start + setting.ranks_per_node)))
            for start in range(0, setting.ranks, setting.ranks_per_node)
        ]
        assert dist.get_process_group_ranks(groups[own])[0] == first
        inside = _probe(_gather, groups[own])
    for _ in range(SETTLE):
        step()
    return Measured(median(_timed(step) for _ in range(ROUNDS)), gather, reduction, inside)


def _timed(run: Callable[[], None]) -> float:
    dist.barrier()
    started = time.monotonic()
    run()
    dist.barrier()
    return time.monotonic() - started


def _probe(collective: Callable[[int, dist.ProcessGroup | None], None], group: dist.ProcessGroup | None) -> Probe:
    """Fits a time a call and a rate to the times of two sizes."""
    times = []
    for size in PROBE_BYTES:
        run = partial(collective, size, group)
        run()
        times.append(median(_timed(run) for _ in range(ROUNDS)))
    rate = (PROBE_BYTES[1] - PROBE_BYTES[0]) / max(times[1] - times[0], 1e-9)
    return Probe(rate, max(0.0, times[0] - PROBE_BYTES[0] / rate))


def _gather(num_bytes: int, group: dist.ProcessGroup | None) -> None:
    own = torch.zeros(num_bytes // 4 // dist.get_world_size(group))
    dist.all_gather_into_tensor(torch.empty(own.numel() * dist.get_world_size(group)), own, group=group)


def _all_reduce(num_bytes: int, group: dist.ProcessGroup | None) -> None:
    dist.all_reduce(torch.zeros(num_bytes // 4), group=group)


def _reduce_scatter(num_bytes: int, group: dist.ProcessGroup | None) -> None:
    whole = torch.zeros(num_bytes // 4)
    own = torch.empty(whole.numel() // dist.get_world_size(group))
    dist.reduce_scatter_tensor(own, whole, group=group)
