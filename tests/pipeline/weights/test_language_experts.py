"""Language experts in every format they come in: the same logits, or a refusal that names the tensor."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.config.vocabulary import JointVocabulary
from pipeline.errors import InputError
from pipeline.model.loading import load_initial_model, load_language_expert
from pipeline.model.mars import MarsForCausalLM
from pipeline.weights.hub import model_folder
from pipeline.weights.language_expert_formats import language_expert_config, open_language_expert
from tests.support import qwen7b
from tests.support.language_experts import write_folder, write_qwen, write_qwen2
from tests.support.small_models import CODEBOOK, TEXT_VOCAB


@torch.no_grad()
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_qwen_7b_in_its_own_format_gives_the_same_logits_up_to_its_training_length(tmp_path: Path, kind: str) -> None:
    folder, config = write_qwen(tmp_path, kind), qwen7b.SMALL
    weights, length = qwen7b.random_weights(config), config["seq_length"]
    ids = torch.randint(TEXT_VOCAB, (2 * length,), generator=torch.Generator().manual_seed(1))
    expert = load_language_expert(folder, torch.float32).eval()
    expected = qwen7b.logits(config, weights, ids[:length])
    torch.testing.assert_close(expert(ids[None, :length]).logits[0], expected, atol=2e-4, rtol=1e-3)
    mars = MarsForCausalLM.from_language_expert(expert, CODEBOOK).eval()
    torch.testing.assert_close(mars(ids[None, :length]).logits[0, :, :TEXT_VOCAB], expected, atol=2e-4, rtol=1e-3)
    beyond = expert(ids[None]).logits[0, length:] - qwen7b.logits(config, weights, ids)[length:]
    assert beyond.abs().max() > 0.1, "logn attention and dynamic NTK are what a Qwen2 has not"
    assert language_expert_config(folder).max_position_embeddings == length, "so what is longer must be refused"


@torch.no_grad()
def test_without_logn_and_ntk_a_qwen_7b_is_a_qwen2_at_any_length(tmp_path: Path) -> None:
    folder = write_qwen(tmp_path, use_logn_attn=False, use_dynamic_ntk=False)
    config = json.loads((folder / "config.json").read_text())
    ids = torch.randint(TEXT_VOCAB, (2 * config["seq_length"],), generator=torch.Generator().manual_seed(1))
    expert = load_language_expert(folder, torch.float32).eval()
    expected = qwen7b.logits(config, qwen7b.random_weights(config), ids)
    torch.testing.assert_close(expert(ids[None]).logits[0], expected, atol=2e-4, rtol=1e-3)
    assert language_expert_config(folder).max_position_embeddings == config["max_position_embeddings"]


QWEN2 = {
    "Qwen1.5, plain heads, untied": dict(num_key_value_heads=4, tie_word_embeddings=False),
    "Qwen2, grouped heads, tied": dict(rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
    "Qwen2.5, a larger table, untied": dict(vocab_size=TEXT_VOCAB + 128, tie_word_embeddings=False),
}


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("changes", QWEN2.values(), ids=QWEN2)
def test_qwen2_checkpoints_load_bit_for_bit_and_the_layout_follows_their_table(
    tmp_path: Path, changes: dict[str, Any], kind: str
) -> None:
    model = write_qwen2(tmp_path, kind, **changes)
    ids = torch.randint(TEXT_VOCAB, (2, 9), generator=torch.Generator().manual_seed(1))
    assert torch.equal(load_language_expert(tmp_path, torch.float32).eval()(ids).logits, model(ids).logits)
    mars = load_initial_model(tmp_path, CODEBOOK, torch.float32)
    assert mars.config.vocab_size == model.config.vocab_size + CODEBOOK + 8
    assert mars.config.rope_parameters == model.config.rope_parameters


def test_qwen_7bs_table_and_8192_codes_make_the_papers_vocabulary() -> None:
    vocabulary = JointVocabulary(151_936, 8192)
    assert vocabulary.size == 160_136 and vocabulary.num_visual == 8200


def drop(name: str) -> Callable[[dict], None]:
    return lambda weights: weights.pop(name)


REFUSED = {
    "missing": (drop("transformer.h.1.attn.c_attn.bias"), "'transformer.h.1.attn.c_attn.bias' is missing"),
    "misshapen": (
        lambda weights: weights.update({"transformer.h.2.mlp.w1.weight": torch.zeros(47, 32)}),
        r"'transformer.h.2.mlp.w1.weight' has shape \(47, 32\), its config.json asks for \(48, 32\)",
    ),
    "unexpected": (
        lambda weights: weights.update({"transformer.h.0.attn.c_attn.lora_A": torch.zeros(2, 32)}),
        "has 'transformer.h.0.attn.c_attn.lora_A': it is a LoRA adapter, not a whole model; merge it",
    ),
    "a layer too many": (
        lambda weights: weights.update({"transformer.h.3.ln_1.weight": torch.zeros(32)}),
        "'transformer.h.3.ln_1.weight' is unexpected",
    ),
    "quantized": (
        lambda weights: weights.update({"lm_head.weight": torch.zeros(300, 32, dtype=torch.int8)}),
        "'lm_head.weight' is of type I8",
    ),
}


@pytest.mark.parametrize("change, message", REFUSED.values(), ids=REFUSED)
def test_a_wrong_or_partial_checkpoint_is_refused_by_the_name_of_the_tensor(
    tmp_path: Path, change: Callable, message: str
) -> None:
    weights = qwen7b.random_weights(qwen7b.SMALL)
    change(weights)
    with pytest.raises(InputError, match=message):
        open_language_expert(write_folder(tmp_path, qwen7b.SMALL, weights))


def test_a_file_that_is_missing_cut_or_lacks_what_the_index_says_is_named(tmp_path: Path) -> None:
    last = write_qwen(tmp_path) / "model-00003-of-00003.safetensors"
    content = last.read_bytes()
    last.write_bytes(content[:-100])
    with pytest.raises(InputError, match=r"00003-of-00003.safetensors' has .* bytes, not"):
        open_language_expert(tmp_path)
    save_file({"lm_head.weight": torch.zeros(300, 32)}, last)
    with pytest.raises(InputError, match="'transformer.h.2.attn.c_attn.weight' is missing in 'model-00003"):
        open_language_expert(tmp_path)
    last.unlink()
    with pytest.raises(InputError, match="lacks the file 'model-00003-of-00003.safetensors' of its index; 'lm_head"):
        open_language_expert(tmp_path)


class Sly:
    def __reduce__(self) -> tuple:
        return os.system, ("touch ran-code",)


def test_a_bin_with_anything_but_tensors_is_refused_and_its_code_never_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_qwen(tmp_path / "model", "bin")
    torch.save({"transformer.wte.weight": Sly()}, tmp_path / "model" / "pytorch_model-00001-of-00003.bin")
    with pytest.raises(InputError, match="holds more than tensors"):
        open_language_expert(tmp_path / "model")
    assert not (tmp_path / "ran-code").exists()


def test_what_mars_does_not_compute_is_refused(tmp_path: Path) -> None:
    for changes, message in (
        (dict(model_type="llama"), "is a 'llama' model"),
        (dict(no_bias=False), "has no_bias False"),
        (dict(kv_channels=16), "has kv_channels x num_attention_heads 64"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(qwen7b.SMALL | changes))
        with pytest.raises(InputError, match=message):
            language_expert_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(dict(model_type="qwen2", use_sliding_window=True)))
    with pytest.raises(InputError, match="use_sliding_window"):
        language_expert_config(tmp_path)


def test_a_hub_name_without_network_says_so_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="'Qwen/Qwen-7B' is no folder here, and the hub cannot be reached") as refused:
        model_folder("Qwen/Qwen-7B")
    assert "\n" not in str(refused.value)
    with pytest.raises(InputError, match="is no folder; name one"):
        model_folder("/no/such/folder")


def test_a_head_of_another_shape_under_a_config_that_ties_it_is_refused(tmp_path: Path) -> None:
    write_qwen2(tmp_path / "expert")
    path = next(path for path in sorted((tmp_path / "expert").glob("*.safetensors")))
    tensors = load_file(path) | {"lm_head.weight": torch.zeros(7, 5)}
    save_file(tensors, path)
    index = next((tmp_path / "expert").glob("*.index.json"))
    listed = json.loads(index.read_text())
    listed["weight_map"]["lm_head.weight"] = path.name
    index.write_text(json.dumps(listed))
    with pytest.raises(InputError, match=r"'lm_head.weight' has shape \(7, 5\), which is not the embedding's"):
        open_language_expert(tmp_path / "expert")


def renamed(model: torch.nn.Module, change: Callable[[str], str]) -> dict[str, torch.Tensor]:
    return {change(name): parameter.detach().clone() for name, parameter in model.named_parameters()}


FORMS: dict[str, Callable[[str], str]] = {
    "DistributedDataParallel": lambda name: f"module.{name}",
    "torch.compile": lambda name: f"_orig_mod.{name}",
    "a compiled layer": lambda name: name.replace("layers.0.", "layers.0._orig_mod."),
    "FSDP": lambda name: name.replace("layers.", "_fsdp_wrapped_module.layers."),
    "a larger model": lambda name: f"language_model.{name}",
    "without its head": lambda name: name.removeprefix("model."),
}


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_names_behind_wrappers_are_the_same_model(tmp_path: Path, form: str) -> None:
    model = write_qwen2(tmp_path)
    save_file(renamed(model, FORMS[form]), tmp_path / "model.safetensors")
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(load_language_expert(tmp_path, torch.float32).eval()(ids).logits, model(ids).logits)


@torch.no_grad()
@pytest.mark.parametrize(
    "name",
    ["model.fp16.safetensors", "pytorch_model.fp16.bin", "model.bf16.safetensors", "weights.safetensors", "parts"],
)
def test_weights_under_other_usual_names_are_found_or_named_themselves(tmp_path: Path, name: str) -> None:
    model = write_qwen2(tmp_path)
    for path in [*tmp_path.glob("*.safetensors"), *tmp_path.glob("*.index.json")]:
        if name != "parts" or path.suffix == ".json":
            path.unlink()
    weights = renamed(model, str)
    if name != "parts":
        save_file(weights, tmp_path / name) if name.endswith("safetensors") else torch.save(weights, tmp_path / name)
    ids = torch.tensor([[1, 2, 3]])
    for location in (tmp_path, tmp_path / name)[: 1 + (name != "parts")]:
        assert torch.equal(load_language_expert(location, torch.float32).eval()(ids).logits, model(ids).logits)
    if name == "parts":
        next(tmp_path.glob("*00002-of*")).unlink()
        with pytest.raises(InputError, match="has 2 of 3 parts, and no index of them; fetch the others"):
            open_language_expert(tmp_path)


def test_a_tied_head_that_differs_from_the_embedding_is_refused(tmp_path: Path) -> None:
    """transformers would silently use one of both."""
    weights = renamed(write_qwen2(tmp_path), str)
    same = weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}
    save_file(same, tmp_path / "model.safetensors")
    open_language_expert(tmp_path)
    same["lm_head.weight"][7, 5] += 1
    save_file(same, tmp_path / "model.safetensors")
    with pytest.raises(
        InputError, match="'lm_head.weight' differs from 'model.embed_tokens.weight', though its config"
    ):
        open_language_expert(tmp_path)


def test_what_is_no_language_expert_is_named(tmp_path: Path) -> None:
    write_qwen2(tmp_path)
    file = tmp_path / "model.safetensors"
    for content, message in (
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "it is a Git LFS pointer"),
        (b"<html><head><title>Sign in</title></head></html>", "it is an HTML page"),
        (b"", "it is an empty file"),
    ):
        file.write_bytes(content)
        with pytest.raises(InputError, match=message):
            open_language_expert(tmp_path)
    save_file({"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.zeros(2, 2)}, file)
    with pytest.raises(InputError, match="is a LoRA adapter, not a whole model"):
        open_language_expert(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    quantised = config | {"quantization_config": {"quant_method": "gptq"}}
    (tmp_path / "config.json").write_text(json.dumps(quantised))
    with pytest.raises(InputError, match="is a model quantised by gptq"):
        open_language_expert(tmp_path)
    (tmp_path / "config.json").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(InputError, match=r"config.json' is no readable config: it is a Git LFS pointer"):
        open_language_expert(tmp_path)


def test_a_bin_of_8_bit_floats_and_an_index_that_is_a_pointer_are_named(tmp_path: Path) -> None:
    model = write_qwen2(tmp_path)
    for path in [*tmp_path.glob("*.safetensors"), *tmp_path.glob("*.index.json")]:
        path.unlink()
    weights = renamed(model, str) | {"lm_head.weight": model.lm_head.weight.detach().to(torch.float8_e4m3fn)}
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"'lm_head.weight' is of type torch.float8_e4m3fn, weights are F64, F32"):
        open_language_expert(tmp_path)
    (tmp_path / "pytorch_model.bin").unlink()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (tmp_path / "model.safetensors.index.json").write_bytes(pointer)
    with pytest.raises(InputError, match=r"model.safetensors.index.json is not readable: it is a Git LFS pointer"):
        open_language_expert(tmp_path)


@torch.no_grad()
def test_the_tensors_of_a_training_checkpoint_are_found(tmp_path: Path) -> None:
    model = write_qwen2(tmp_path)
    for path in [*tmp_path.glob("*.safetensors"), *tmp_path.glob("*.index.json")]:
        path.unlink()
    torch.save({"state_dict": renamed(model, str), "epoch": 3}, tmp_path / "pytorch_model.bin")
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(load_language_expert(tmp_path, torch.float32).eval()(ids).logits, model(ids).logits)
