"""Loads a starting model directly into ZeRO-3 partitions: each rank reads only its own part of every tensor.

No rank ever holds the whole model, in host or GPU memory. Beyond its part, a rank allocates one empty tensor at a time,
while DeepSpeed partitions it.
"""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from pipeline.architecture.mars_config import MarsConfig
from pipeline.config.stage import StageConfig
from pipeline.config.zero import ZeroConfig
from pipeline.errors import InputError
from pipeline.model.layers import RotaryEmbedding
from pipeline.model.mars import MarsForCausalLM
from pipeline.runtime.agreement import agree_on_problem
from pipeline.runtime.compiled_ops import set_up_compilation
from pipeline.runtime.deepspeed_private import partition
from pipeline.training.engine import engine_config
from pipeline.weights.starting_model import StartOptions, StartRecord, finished_record, verify_files
from pipeline.weights.tensor_files import PIECE_ELEMENTS, TensorFile, TensorFolder, open_tensor_folder


def load_partitioned(
    folder: Path,
    options: StartOptions,
    stage: StageConfig,
    zero: ZeroConfig,
    device: torch.device,
) -> tuple[MarsForCausalLM, str]:
    """Loads the starting model in `folder`, partitioned over the ranks, and the hash of its language expert.

    All weights but the visual expert's are frozen. Every rank calls it, with `torch.distributed` initialized. One rank
    of each node verifies the files, since each node may have its own file system.

    Args:
        folder: a folder that `jobs/init_model.py` wrote.
        options: the options it must have been made with.
        stage, zero: configure DeepSpeed. `zero.frozen_whole` leaves the language expert's tensors whole.
        device: the rank's device.

    Raises:
        InputError: on every rank, if the starting model is damaged, incomplete, or has other options.
    """
    record = _verified_record(folder, options)
    dtype = getattr(torch, zero.dtype)
    config = MarsConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).freeze_language_expert()
    source = _Source(open_tensor_folder(folder))
    partitions = _Partitions(engine_config(stage, zero))
    made: dict[int, nn.Parameter] = {}  # a tied tensor appears once
    for prefix, module in model.named_modules():
        for name, empty in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if id(empty) not in made:
                whole = f"{prefix}.{name}" if prefix else name
                made[id(empty)] = _filled(whole, empty, source, partitions, zero.frozen_whole, device)
            module.register_parameter(name, made[id(empty)])
    model.model.rotary_emb = RotaryEmbedding(config=config).to(device)
    return model, record.base_sha256


def _verified_record(folder: Path, options: StartOptions) -> StartRecord:
    """Verifies the files on one rank of each node.

    All ranks continue or none does, because a rank that waits for the others would hang.
    """
    record, problem = None, None
    try:
        record = finished_record(folder, options)
        if int(os.environ.get("LOCAL_RANK", "0")) == 0:
            verify_files(folder, record)
    except InputError as error:
        problem = str(error)
    if found := agree_on_problem(problem):
        raise InputError(found)
    assert record
    return record


def _filled(
    name: str,
    empty: nn.Parameter,
    source: "_Source",
    partitions: "_Partitions",
    frozen_whole: bool,
    device: torch.device,
) -> nn.Parameter:
    parameter = nn.Parameter(torch.empty_like(empty, device=device), requires_grad=empty.requires_grad)
    if frozen_whole and not parameter.requires_grad:
        source.read_into(parameter.data.view(-1), name, 0)
        return parameter
    own, start = partitions.own_part(parameter)
    source.read_into(own, name, start)
    return parameter


class _Partitions:
    """Lets DeepSpeed partition parameters one by one, in the same way as those of a whole model."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        self._first: nn.Parameter | None = None

    def own_part(self, parameter: nn.Parameter) -> tuple[Tensor, int]:
        """Partitions a parameter. Returns this rank's part without padding, and its offset when flattened."""
        set_up_compilation()
        own = partition(parameter, self._first, self._config)
        if self._first is None:
            self._first = parameter
        return own


class _Source:
    """Reads ranges of elements from the model's tensors."""

    def __init__(self, start: TensorFolder) -> None:
        self._start = start
        self._opened: dict[str, TensorFile] = {}

    def read_into(self, part: Tensor, name: str, start: int) -> None:
        """Fills `part` with the elements of the flattened tensor from `start` on."""
        for first in range(0, part.numel(), PIECE_ELEMENTS):
            count = min(PIECE_ELEMENTS, part.numel() - first)
            part[first : first + count].copy_(self._read(name, start + first, count))

    def _read(self, name: str, start: int, count: int) -> Tensor:
        if name not in self._start.file_of:
            raise InputError(
                f"starting model {str(self._start.folder)!r} lacks tensor {name!r}; remove the folder "
                "and run jobs/init_model.py"
            )
        file = self._start.file_of[name]
        if file not in self._opened:
            self._opened[file] = self._start.open(file)
        return self._opened[file].read(name, start, count)
