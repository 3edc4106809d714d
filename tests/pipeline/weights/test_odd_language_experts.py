"""Language experts whose config or tensors can be no model's are refused in one line, whatever is odd about them."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.errors import InputError
from pipeline.model.loading import load_initial_model, load_language_expert
from pipeline.weights.language_expert_formats import open_language_expert
from tests.support.language_experts import write_qwen, write_qwen2
from tests.support.small_models import CODEBOOK

ODD: list[Any] = [None, "x", -1, 0, 1.5, True, [], {}, 10**12, float("nan"), float("inf"), "32"]
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder with a Qwen2, and one with a Qwen in its own format."""
    folder = tmp_path_factory.mktemp("experts")
    write_qwen2(folder / "qwen2")
    write_qwen(folder / "qwen")
    return {name: folder / name for name in ("qwen2", "qwen")}


@pytest.fixture
def expert(experts: dict[str, Path], tmp_path: Path) -> Path:
    shutil.copytree(experts["qwen2"], tmp_path / "expert")
    return tmp_path / "expert"


def refusals(folder: Path, configs: list[Any]) -> Iterator[tuple[Any, str]]:
    """Each config with the message that refuses it."""
    own = (folder / "config.json").read_text()
    try:
        for config in configs:
            (folder / "config.json").write_text(json.dumps(config))
            with pytest.raises(InputError) as refused:
                open_language_expert(folder)
            yield config, str(refused.value)
    finally:
        (folder / "config.json").write_text(own)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qwen2", "qwen"])
def test_sizes_that_no_model_has_are_refused_in_one_line(experts: dict[str, Path], kind: str) -> None:
    own = json.loads((experts[kind] / "config.json").read_text())
    changed = [(name, own | {name: value}) for name in SIZES for value in ODD]
    for (name, _), (_, message) in zip(changed, refusals(experts[kind], [c for _, c in changed]), strict=True):
        assert f"has {name} " in message and "a whole number from 1 to" in message and "\n" not in message
    lacking = [{key: value for key, value in own.items() if key != name} for name in SIZES]
    assert all("\n" not in message and len(message) < 600 for _, message in refusals(experts[kind], lacking))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rms_norm_eps": 0}, "has rms_norm_eps 0; a number above 0"),
        ({"rms_norm_eps": "1e-6"}, "has rms_norm_eps '1e-6'"),
        ({"rope_theta": -5.0}, "has rope_theta -5.0"),
        ({"num_key_value_heads": 3}, "num_key_value_heads 3; a divisor of num_attention_heads 4"),
        ({"num_attention_heads": 5}, "hidden_size 32 and num_attention_heads 5; heads of an even size"),
        ({"hidden_act": "no_such"}, "cannot be used: KeyError: 'no_such'"),
        ({"hidden_act": 3}, "cannot be used: StrictDataclassFieldValidationError.*'hidden_act'"),
        ({"layer_types": ["full_attention"]}, "cannot be used"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "kind 'dynamic'; MARS"),
        ({"rope_parameters": {"rope_type": "no_such", "rope_theta": 1e4}}, "no_such"),
        ({"rope_parameters": 5}, "cannot be used"),
        ({"model_type": ["qwen2"]}, "is a .* model; MARS is built on"),
    ],
)
def test_values_that_mars_cannot_compute_with_are_named(
    experts: dict[str, Path], changes: dict[str, Any], message: str
) -> None:
    own = json.loads((experts["qwen2"] / "config.json").read_text())
    ((_, said),) = refusals(experts["qwen2"], [own | changes])
    assert "\n" not in said
    with pytest.raises(ValueError, match=message):
        raise ValueError(said)


@pytest.mark.parametrize("config", [[], "x", None, 3, {}])
def test_a_config_that_is_no_object_is_named(experts: dict[str, Path], config: Any) -> None:
    ((_, said),) = refusals(experts["qwen2"], [config])
    assert "config" in said or "is a 'None' model" in said


@torch.no_grad()
@pytest.mark.parametrize("kind", ["linear", "yarn"])
def test_rotary_positions_that_depend_on_the_position_alone_are_computed(tmp_path: Path, kind: str) -> None:
    rotary = {"rope_type": kind, "factor": 2.0, "rope_theta": 1e4, "original_max_position_embeddings": 32}
    model = write_qwen2(tmp_path, max_position_embeddings=64, rope_parameters=rotary)
    ids = torch.arange(1, 50)[None]
    mars = load_initial_model(tmp_path, CODEBOOK, torch.float32).eval()
    assert torch.equal(mars(ids).logits[..., : model.config.vocab_size], model(ids).logits)


def part_of(expert: Path) -> Path:
    return expert / "model-00001-of-00003.safetensors"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_tensors_that_are_not_finite_are_refused_by_name(expert: Path, value: float) -> None:
    tensors = load_file(part_of(expert))
    name = sorted(tensors)[-1]
    tensors[name].view(-1)[-1] = value
    save_file(tensors, part_of(expert))
    with pytest.raises(InputError, match=f"tensor '{name}' has values that are not finite; fetch it again"):
        load_language_expert(expert, torch.float32)
    with pytest.raises(InputError, match="not finite"):
        open_language_expert(expert).base_sha256()


def test_a_tensor_that_is_there_twice_is_refused(expert: Path) -> None:
    """Which one counts, chance would decide."""
    tensors = load_file(part_of(expert))
    name = sorted(tensors)[0]
    save_file(tensors | {f"module.{name}": tensors[name] + 1}, part_of(expert))
    with pytest.raises(InputError, match="are the same without wrappers; save the model once"):
        open_language_expert(expert)
    save_file(tensors, part_of(expert))
    other = expert / "model-00002-of-00003.safetensors"
    save_file(load_file(other) | {name: tensors[name]}, other)
    with pytest.raises(InputError, match=f"tensor '{name}' is in 'model-00001.* and in 'model-00002"):
        open_language_expert(expert)


@pytest.mark.parametrize(
    "tensor",
    [
        {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": ["2"], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0]},
        {"dtype": "F32", "shape": [2]},
        [],
    ],
)
def test_a_header_that_describes_no_tensor_is_refused(expert: Path, tensor: Any) -> None:
    header = json.dumps({"x": tensor}).encode()
    part_of(expert).write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(InputError, match="is no readable safetensors file") as refused:
        open_language_expert(expert)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": 5}', '{"weight_map": {"a": 5}}', "\xff", '"x"'])
def test_an_index_that_is_none_is_refused(expert: Path, index: str) -> None:
    next(expert.glob("*.index.json")).write_bytes(index.encode("latin-1"))
    with pytest.raises(InputError, match=r"index\.json is not readable"):
        open_language_expert(expert)


def test_a_torch_file_of_other_than_weights_is_refused(expert: Path) -> None:
    path = expert / "other.bin"
    for content, message in (
        ({1: torch.zeros(2)}, "is no dict of tensors by name"),
        ({"x": torch.zeros(2, dtype=torch.int8)}, "tensor 'x' is of type torch.int8, weights are F64"),
        ([torch.zeros(2)], "is no dict of tensors by name"),
    ):
        torch.save(content, path)
        with pytest.raises(InputError, match=message):
            open_language_expert(path)
