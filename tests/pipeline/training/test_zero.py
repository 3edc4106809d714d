"""Two gloo ranks under ZeRO-3 are partitioned for real and compute what one process computes."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from pipeline.checkpoints.manifest import finished_checkpoint
from pipeline.config.tasks import Task
from pipeline.model.loading import load_initial_model
from pipeline.model.mars import MarsForCausalLM, is_trained, is_visual_table
from pipeline.training.engine import accumulate, make_engine
from pipeline.training.objective import Objective
from pipeline.training.stage_run import StageRun, plan_inputs
from pipeline.training.step import train_step
from pipeline.training.step_guard import StepGuard
from tests.support.faults import poison
from tests.support.ports import free_port
from tests.support.ranks import STAGE, join, losses, named, on_ranks, spawn
from tests.support.small_models import CODEBOOK
from tests.support.trained_weights import load_trained, trained_state

pytestmark = pytest.mark.slow


def start_of(run: StageRun) -> MarsForCausalLM:
    return load_initial_model(run.initial_model, CODEBOOK, torch.float32, run.model_options)


@pytest.mark.parametrize(
    "zero, stage",
    [
        ({"persistence_threshold": 1000}, {"checkpoint_every_layers": 1}),
        (
            {"frozen_whole": True, "whole_layers": True, "saving_linear": False},
            {"checkpoint_every_layers": 2},
        ),
        pytest.param({}, {}, marks=pytest.mark.long),
        pytest.param({"zero_stage": 2}, {}, marks=pytest.mark.long),
        pytest.param(
            {"whole_layers": True}, {"compile_layers": True, "checkpoint_every_layers": 1}, marks=pytest.mark.long
        ),
    ],
    ids=[
        "zero 3, recomputing",
        "zero 3, whole layers, frozen whole, plain linear layers, recomputing half",
        "zero 3",
        "zero 2",
        "zero 3, compiled, recomputing",
    ],
)
def test_two_ranks_train_as_one_process_does_and_the_frozen_half_stays(
    run: StageRun, zero: dict[str, Any], stage: dict[str, Any]
) -> None:
    run = replace(run, zero=replace(run.zero, **zero), stage=replace(STAGE, **stage))
    two = on_ranks(2, run)
    one = on_ranks(1, replace(named(run, "alone"), samples=None))
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    assert len(two) == STAGE.steps
    events = EventAccumulator(str(run.output / "tensorboard"))
    events.Reload()
    assert [picture.step for picture in events.Images("samples")] == [3, 6]
    width, height = events.Images("samples")[0].width, events.Images("samples")[0].height
    assert (width, height) == (2 * (4 * 16 + 4), 3 * 16 + 4 + 4 * 16 + 4), "two prompts, both resolutions"
    seen = {name for figures in two for name in figures if name.startswith("loss/")}
    assert seen == {f"loss/{task.name.lower()}" for task in Task}
    state = trained_state(finished_checkpoint(run.checkpoints))
    model = start_of(run)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    load_trained(model, state, run.output)
    for name, parameter in model.named_parameters():
        if not is_trained(name):
            assert torch.equal(parameter, before[name]), name
        elif parameter.dim() == 2:
            assert not torch.equal(parameter, before[name]), name


def test_a_second_copy_of_the_weights_in_each_node_changes_nothing(run: StageRun) -> None:
    """Four ranks as two nodes: through validation, samples, and weights that are rolled back from a checkpoint."""
    stage = replace(STAGE, save_every_steps=1, roll_back_after=2, end_after=4)
    zero = replace(run.zero, whole_layers=True)
    found = []
    for size in (1, 2):
        again = replace(named(run, f"copies {size}"), stage=stage, zero=replace(zero, secondary_partition_size=size))
        found.append(on_ranks(4, again, before_step=partial(poison, range(4, 6), "loss")))
    assert found[0][-1]["skipped_steps"] == 2
    assert repr(losses(found[0])) == repr(losses(found[1])), "repr, since NaN is not equal to itself"


def _gradient_rank(rank: int, port: int, run: StageRun, result: Path) -> None:
    from deepspeed.utils import safe_get_full_grad

    join(rank, 2, port)
    model = load_initial_model(run.initial_model, CODEBOOK, torch.float32)
    plan = plan_inputs(run, model.config.vocabulary).plan()
    engine = make_engine(Objective(model), run.stage, run.zero)
    micro_steps = plan.step(0, rank, 2).micro_steps
    for number, batches in enumerate(micro_steps, start=1):
        accumulate(engine, engine(batches).loss, last=number == len(micro_steps))
        if number < len(micro_steps):
            engine.step()
    named = dict(engine.module.mars.named_parameters())
    gradients = {name: safe_get_full_grad(p) for name, p in named.items() if is_trained(name)}
    if rank == 0:
        torch.save((len(micro_steps), gradients), result)
    dist.barrier()
    os._exit(0)


def test_two_ranks_and_several_micro_steps_give_the_gradient_of_one_pass(run: StageRun, tmp_path: Path) -> None:
    run = replace(run, stage=replace(STAGE, global_batch_size=24))
    spawn(_gradient_rank, 2, free_port(), run, tmp_path / "gradients")
    num_micro_steps, gradients = torch.load(tmp_path / "gradients")
    assert num_micro_steps > 1
    model = load_initial_model(run.initial_model, CODEBOOK, torch.float32)
    for batches in plan_inputs(run, model.config.vocabulary).plan().step(0, 0, 1).micro_steps:
        Objective(model)(batches).loss.backward()
    expected = {name: p.grad for name, p in model.named_parameters() if is_trained(name)}
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-4, msg=name)


def _accumulation_rank(rank: int, port: int, run: StageRun, result: Path) -> None:
    from deepspeed.utils import safe_get_full_grad

    join(rank, 2, port)
    model = load_initial_model(run.initial_model, CODEBOOK, torch.bfloat16)
    engine = make_engine(cast(Objective, Scaled(model)), run.stage, replace(run.zero, dtype="bfloat16"))
    forward = cast(Callable[[float], torch.Tensor], engine)
    # 1 + 255 * 2^-9: in bfloat16, whose step at 1 is 2^-7, every one of the small ones would be lost.
    sizes = [1.0] + [2.0**-9] * 255
    for number, size in enumerate(sizes, start=1):
        accumulate(engine, forward(size) / dist.get_world_size(), last=number == len(sizes))
        if number < len(sizes):
            engine.step()
    gradient = safe_get_full_grad(engine.module.mars.model.embed_visual.weight)
    if rank == 0:
        torch.save(gradient, result)
    dist.barrier()
    os._exit(0)


class Scaled(nn.Module):
    """Its gradient for every visual embedding row is the number it is called with. Stands in for `Objective`."""

    def __init__(self, model: MarsForCausalLM) -> None:
        super().__init__()
        self.mars = model

    def forward(self, size: float) -> torch.Tensor:
        ids = torch.arange(self.mars.config.vocabulary.num_visual) + self.mars.config.text_vocab_size
        total: torch.Tensor = self.mars.model.embed_visual(ids).sum() * size
        return total


def test_gradients_of_micro_steps_add_up_in_float32_under_bfloat16(run: StageRun, tmp_path: Path) -> None:
    spawn(_accumulation_rank, 2, free_port(), run, tmp_path / "sum")
    gradient = torch.load(tmp_path / "sum")
    assert gradient.dtype == torch.float32
    torch.testing.assert_close(gradient, torch.full_like(gradient, 1 + 255 * 2.0**-9))


def test_the_visual_tables_learn_at_their_own_rate(run: StageRun) -> None:
    on_ranks(1, replace(run, stage=replace(STAGE, steps=2, table_rate_factor=0.0)))
    state = trained_state(finished_checkpoint(run.checkpoints))
    start = dict(start_of(run).named_parameters())
    still = {name for name, tensor in state.items() if torch.equal(tensor, start[name])}
    assert {name for name in state if is_visual_table(name)} <= still
    assert sum(name not in still for name in state) > 10, "only the tables were to stand still"


def _bytes_rank(rank: int, port: int, run: StageRun, result: Path) -> None:
    join(rank, 2, port)
    model = load_initial_model(run.initial_model, CODEBOOK, torch.float32)
    whole = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    plan = plan_inputs(run, model.config.vocabulary).plan()
    engine = make_engine(Objective(model), run.stage, run.zero)
    for number in range(2):
        train_step(engine, plan.step(number, rank, 2), run.stage, StepGuard(0.0, 0, 1), torch.device("cpu"))
    parameters: list[Any] = list(engine.module.parameters())  # ZeRO-3 gives each a `ds_tensor`
    held = sum(p.ds_tensor.numel() for p in parameters)
    left_whole = sum(p.data.numel() for p in parameters)
    moments = sum(
        value.numel()
        for state in engine.optimizer.optimizer.state.values()
        for value in state.values()
        if torch.is_tensor(value) and value.dim()
    )
    torch.save((held / whole, left_whole, moments / (2 * trained)), f"{result}-{rank}")
    dist.barrier()
    os._exit(0)


def test_between_steps_a_rank_holds_half_of_the_parameters_and_of_the_optimizer(run: StageRun, tmp_path: Path) -> None:
    spawn(_bytes_rank, 2, free_port(), run, tmp_path / "bytes")
    for rank in range(2):
        parameters, left_whole, moments = torch.load(f"{tmp_path / 'bytes'}-{rank}")
        assert parameters == pytest.approx(0.5, abs=0.05)
        assert moments == pytest.approx(0.5, abs=0.05)
        assert left_whole < 100, "gathered parameters were not released"
