"""Each name of torch that is not public is where it was, and does what it is used for."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

import pipeline.runtime.torch_private as torch_private
from pipeline.benchmarks.collectives import CollectiveCounter
from tests.support.private_names import names_in, private_name
from tests.support.ranks import spawn

NAMES: dict[str, tuple[str, tuple[str, ...]]] = {
    "torch.ops.mkldnn._is_mkldnn_bf16_supported": ("decoding on CPUs packs bfloat16 weights only where it can", ()),
    "torch.ops.mkldnn._reorder_linear_weight": ("decoding on CPUs lays weights out once", ()),
    "torch.ops.mkldnn._linear_pointwise": ("decoding on CPUs multiplies by the weights laid out so", ()),
    "torch._dynamo.mark_static_address": ("CUDA graphs of decoding steps write to the caches in place", ()),
    "torch.utils.cpp_extension._get_build_directory": ("a lock that a killed build left is found", ("name", "verbose")),
    "torch.nn.Module._apply": ("rotary frequencies stay float32 when a model is converted", ("fn", "recurse")),
}
CHECKED_BELOW = {"_modules", "_cdata", "_config"}


@pytest.mark.parametrize("name", NAMES)
def test_a_private_name_of_torch_is_where_it_was(name: str) -> None:
    private_name(name, *NAMES[name])


def test_every_private_name_of_torch_has_a_test() -> None:
    used = {name.split(".")[-1] for name in names_in(Path(torch_private.__file__), "torch")}
    tested = {word for name in NAMES for word in name.split(".")} | CHECKED_BELOW
    missing = {name for name in used - tested if name.startswith("_")}
    assert not missing, f"add a test for {missing}"


def test_a_packed_weight_multiplies_as_the_weight_does() -> None:
    linear, rows = nn.Linear(24, 40), torch.randn(3, 24)
    packed = torch_private.packed_weight(linear.weight, 16)
    product = torch_private.packed_linear(rows, packed, linear.bias.detach())
    assert torch.allclose(product, linear(rows), atol=1e-5), "decoding on CPUs would compute something else"
    assert isinstance(torch_private.mkldnn_has_bfloat16(), bool)


def test_a_copy_with_other_children_leaves_the_original_alone() -> None:
    original = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    copied = torch_private.with_children(original, {"0": nn.Identity(), "1": original[1]})
    assert isinstance(copied[0], nn.Identity) and isinstance(original[0], nn.Linear), "packing would change the model"
    assert copied[1] is original[1]


def test_tensors_on_one_storage_have_one_key_also_on_the_meta_device() -> None:
    tensor, other = torch.zeros(4, device="meta"), torch.zeros(4, device="meta")
    keys = [torch_private.storage_key(each.untyped_storage()) for each in (tensor, tensor[1:], other)]
    assert keys[0] == keys[1] != keys[2], "counted memory would be something else"


def test_a_static_address_is_marked() -> None:
    tensor = torch.zeros(2)
    torch_private.mark_static_address(tensor)
    marks = [name for name in vars(tensor) if "static" in name]
    assert marks, "torch.compile would copy the decoder's caches at every step"


def test_the_folder_of_an_extension_is_where_torch_builds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    assert torch_private.extension_folder("an_op") == tmp_path / "an_op", "locks of killed builds would not be found"


def test_buffers_that_must_not_be_rounded_are_not() -> None:
    class Frequencies(torch_private.Float32Buffers):
        float32_buffers = ("exact",)

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("exact", torch.tensor([1 / 3]))
            self.register_buffer("other", torch.tensor([1 / 3]))

    whole = nn.Sequential(Frequencies()).to(torch.bfloat16)
    assert whole[0].get_buffer("other").dtype == torch.bfloat16
    assert torch.equal(whole[0].get_buffer("exact"), torch.tensor([1 / 3])), "positions would be off by up to 0.4%"


@pytest.mark.slow
def test_a_function_that_needs_too_many_graphs_is_an_error_in_any_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("recompile_limit", 8), ("fail_on_recompile_limit_hit", False)):
        monkeypatch.setattr(f"torch._dynamo.config.{name}", value)
        monkeypatch.setattr(vars(torch._dynamo.config)["_config"][name], "default", value)
    monkeypatch.setattr(torch_private, "GRAPH_LIMIT", 3)
    torch_private.fail_on_too_many_graphs()
    compiled = torch.compile(lambda tensor: tensor + 1, backend="eager", dynamic=False)
    for size in (2, 3, 4):
        compiled(torch.zeros(size))
    with pytest.raises(Exception, match="recompile_limit"):
        compiled(torch.zeros(5))
    with ThreadPoolExecutor(1) as pool, pytest.raises(Exception, match="recompile_limit"):
        pool.submit(compiled, torch.zeros(6)).result()


@pytest.mark.slow
def test_collectives_of_a_fake_group_are_seen_with_their_group() -> None:
    spawn(_count_in_fake_group, 1)


def _count_in_fake_group(rank: int) -> None:
    torch_private.join_fake_group(16)
    with CollectiveCounter(ranks_per_node=8) as counter:
        dist.all_gather_into_tensor(torch.zeros(64), torch.zeros(4))
    assert counter.volume.calls == 1, "c10d's operators are no longer dispatched"
    assert counter.volume.gathered == 256
    assert counter.volume.gathered_between_nodes == 256 * 15 / 16, "the group among the arguments was not found"
