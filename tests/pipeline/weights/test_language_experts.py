"""Language experts in every format they come in: the same logits, or a refusal that names the tensor."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from jobs.init_model import Options, main
from pipeline.config.model import ModelOptions
from pipeline.config.stage import Source, StageConfig
from pipeline.config.vocabulary import JointVocabulary
from pipeline.errors import InputError, UsageError
from pipeline.model.loading import base_sha256, load_base, load_language_expert
from pipeline.model.mars import MarsForCausalLM
from pipeline.runs.language_expert_check import check_base
from pipeline.weights.hub import model_folder
from pipeline.weights.language_expert_formats import language_expert_config, open_language_expert
from pipeline.weights.starting_model import StartOptions, StartRecord, finished_record, make_starting_model
from tests.support import qwen7b
from tests.support.checkout import CHECKOUT
from tests.support.small_models import CODEBOOK, TEXT_VOCAB
from tests.support.tokens import FINGERPRINT


def write_folder(
    folder: Path, config: dict, weights: dict[str, Tensor], kind: str = "safetensors", files: int = 3
) -> Path:
    """Writes a checkpoint in `files` parts with their index, as the hub has them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    stem, suffix = ("model", "safetensors") if kind == "safetensors" else ("pytorch_model", "bin")
    names = list(weights)
    size, weight_map = -(-len(names) // files), {}
    for number in range(files):
        part = {name: weights[name].clone() for name in names[number * size : (number + 1) * size]}
        file = f"{stem}-{number + 1:05d}-of-{files:05d}.{suffix}"
        if kind == "safetensors":
            save_file(part, folder / file)
        else:  # before torch 1.6 it was no zip file
            torch.save(part, folder / file, _use_new_zipfile_serialization=kind != "old bin")
        weight_map |= dict.fromkeys(part, file)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def write_qwen(folder: Path, kind: str = "safetensors", **changes: Any) -> Path:
    config = qwen7b.SMALL | changes
    return write_folder(folder, config, qwen7b.random_weights(config), kind)


def write_qwen2(folder: Path, kind: str = "safetensors", **changes: Any) -> Qwen2ForCausalLM:
    values = dict(vocab_size=TEXT_VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2)
    values |= dict(num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True)
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(Qwen2Config(**values | changes), dtype=torch.float32).eval()
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    write_folder(folder, model.config.to_dict(), weights, kind)
    return model


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


@torch.no_grad()
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("changes", QWEN2.values(), ids=QWEN2)
def test_qwen2_checkpoints_load_bit_for_bit_and_the_layout_follows_their_table(
    tmp_path: Path, changes: dict[str, Any], kind: str
) -> None:
    model = write_qwen2(tmp_path, kind, **changes)
    ids = torch.randint(TEXT_VOCAB, (2, 9), generator=torch.Generator().manual_seed(1))
    assert torch.equal(load_language_expert(tmp_path, torch.float32).eval()(ids).logits, model(ids).logits)
    mars = load_base(tmp_path, CODEBOOK, torch.float32)
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
        "'transformer.h.0.attn.c_attn.lora_A' is unexpected",
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


NOISY = ModelOptions(embedding_noise_std=0.02)


def start(
    source: Path, out: Path, lines: list[str] | None = None, options: ModelOptions = NOISY, dtype: str = "float32"
) -> StartRecord:
    wanted = StartOptions(CODEBOOK, options, dtype)
    return make_starting_model(
        open_language_expert(source), "named", wanted, out, lines.append if lines is not None else print
    )


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", ["qwen", "qwen2 tied"])
def test_a_starting_model_made_shard_by_shard_is_the_one_made_in_memory(
    tmp_path: Path, kind: str, shared: bool
) -> None:
    source = tmp_path / "source"
    write_qwen(source, "bin") if kind == "qwen" else write_qwen2(source)
    for dtype in ("float32", "bfloat16"):
        out = tmp_path / dtype
        options = ModelOptions(shared, embedding_noise_std=0.02, picture_position_std=0.03)
        record = start(source, out, options=options, dtype=dtype)
        expected = load_base(source, CODEBOOK, getattr(torch, dtype), options)
        made = MarsForCausalLM.from_pretrained(out, dtype=getattr(torch, dtype))
        assert made.config.options == expected.config.options == options
        own, other = dict(made.named_parameters()), dict(expected.named_parameters())
        assert own.keys() == other.keys()
        for name in own:
            assert torch.equal(own[name], other[name]), name
        assert record.base_sha256 == base_sha256(expected)
        assert len(list(out.glob("*.safetensors"))) == 3 == len(record.files)
        ids = torch.tensor([[1, 2, 3]])
        text = load_language_expert(out, getattr(torch, dtype)).eval()(ids).logits
        assert torch.equal(text, load_language_expert(source, getattr(torch, dtype)).eval()(ids).logits)


def test_an_interrupted_starting_model_goes_on_and_what_was_damaged_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write_qwen(tmp_path / "source"), tmp_path / "start"

    class Killed(BaseException):
        pass

    def die_at_the_second(line: str) -> None:
        if "00002-of" in line:
            raise Killed

    wanted = StartOptions(CODEBOOK, NOISY, dtype="float32")
    with pytest.raises(Killed):
        make_starting_model(open_language_expert(source), "named", wanted, out, die_at_the_second)
    with pytest.raises(InputError, match="is not finished"):
        finished_record(out, wanted)
    first, lines = out / "model-00001-of-00003.safetensors", list[str]()
    before = first.stat().st_mtime_ns
    record = start(source, out, lines)
    assert first.stat().st_mtime_ns == before and "00001-of-00003.safetensors is already there" in lines[0]
    first.write_bytes(first.read_bytes()[:-1] + b"?")
    assert start(source, out) == record
    with pytest.raises(InputError, match="begun with another options"):
        start(source, out, options=ModelOptions())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty and no starting model"):
        start(source, tmp_path / "full")


def test_the_job_makes_a_runs_start_and_samples_beyond_the_training_length_are_refused(tmp_path: Path) -> None:
    words = Tokenizer(WordLevel({f"w{number}": number for number in range(200)}, "w1"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path / "text")
    source = write_qwen(tmp_path / "expert")
    options = Options(
        root=str(tmp_path / "runs"),
        set=(f"language_expert_folder={source}", f"text_tokenizer={tmp_path / 'text'}"),
        codebook_size=FINGERPRINT.codebook_size,
    )
    result = main(options)
    recipe, paths = options.resolve()
    assert paths.base == paths.start and result["vocab_size"] == TEXT_VOCAB + FINGERPRINT.codebook_size + 8
    assert main(options) == result | {"memory_growth_bytes": ANY}
    stage = StageConfig(purpose="a test's", sources={"drawings": Source()})
    check_base(paths, 1, stage, FINGERPRINT, qwen7b.SMALL["seq_length"])
    with pytest.raises(UsageError, match="a sample can have 25 tokens, the language expert knows 24 positions"):
        check_base(paths, 1, stage, FINGERPRINT, qwen7b.SMALL["seq_length"] + 1)
    other = replace(paths, recipe=replace(recipe, language_expert_folder="models/other"))
    with pytest.raises(InputError, match="was made of '.*expert', the recipe names 'models/other'"):
        check_base(other, 1, stage, FINGERPRINT, 9)
    elsewhere = replace(other, run=tmp_path / "elsewhere")
    with pytest.raises(InputError, match="'models/other' is no folder here.*run jobs/init_model.py"):
        check_base(elsewhere, 1, stage, FINGERPRINT, 9)
    assert words.add_tokens([f"more{number}" for number in range(200)]) == 200
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path / "text")
    with pytest.raises(InputError, match="has 400 ids, the language expert .* 300 rows"):
        main(options)


def test_a_starting_model_is_made_again_of_the_same_expert_in_fewer_files(tmp_path: Path) -> None:
    """And what a killed attempt left behind before its first record is no hindrance."""
    config, out = qwen7b.SMALL, tmp_path / "start"
    weights = qwen7b.random_weights(config)
    out.mkdir()
    (out / ".begun").write_text("{")
    three = start(write_folder(tmp_path / "three", config, weights, files=3), out)
    two = start(write_folder(tmp_path / "two", config, weights, files=2), out)
    assert two.base_sha256 == three.base_sha256 and len(two.files) == 2
    assert {path.name for path in out.glob("*.safetensors")} == set(two.files)


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


MEASURE = """
import sys
from pathlib import Path
import torch
from pipeline.weights.language_expert_formats import open_language_expert
from pipeline.runtime.process_memory import MemoryGrowth
from pipeline.weights.starting_model import StartOptions, make_starting_model
for source in map(Path, sys.argv[1:]):
    largest = max(path.stat().st_size for path in source.iterdir())
    memory = MemoryGrowth()
    expert = open_language_expert(source)
    make_starting_model(expert, "named", StartOptions(64), source / "start", lambda line: None)
    print(memory.peak_bytes(), largest)
"""


@pytest.mark.slow
def test_memory_stays_under_one_and_a_half_times_the_largest_shard(tmp_path: Path) -> None:
    config = qwen7b.SMALL | dict(vocab_size=40_000, hidden_size=1024, kv_channels=256, intermediate_size=8192)
    weights = qwen7b.random_weights(config | dict(num_hidden_layers=1), torch.bfloat16)
    folders = [
        write_folder(tmp_path / kind, config | dict(num_hidden_layers=1), weights, kind, files=2)
        for kind in ("safetensors", "bin", "old bin")
    ]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, folders)],
        # By itself glibc keeps freed blocks of up to 32 MB, as many as chance has it: little beside a real shard.
        env=os.environ | {"PYTHONPATH": str(CHECKOUT), "MALLOC_MMAP_THRESHOLD_": str(2**20)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        growth, largest = map(int, line.split())
        assert largest > 80e6
        assert growth < 1.5 * largest, f"{growth / largest:.2f} of the largest shard"
