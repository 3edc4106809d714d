"""A starting model is made shard by shard, goes on after an interruption, and fits in memory."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from jobs.init_model import Options, main
from pipeline.config.model import ModelOptions
from pipeline.config.stage import Source, StageConfig
from pipeline.errors import InputError, UsageError
from pipeline.model.loading import base_sha256, load_initial_model, load_language_expert
from pipeline.model.mars import MarsForCausalLM
from pipeline.runs.language_expert_check import check_base
from pipeline.weights.language_expert_formats import open_language_expert
from pipeline.weights.starting_model import StartOptions, StartRecord, finished_record, make_starting_model
from tests.support import qwen7b
from tests.support.checkout import CHECKOUT
from tests.support.language_experts import write_folder, write_qwen, write_qwen2
from tests.support.small_models import CODEBOOK, TEXT_VOCAB
from tests.support.tokens import FINGERPRINT

NOISY = ModelOptions(embedding_noise_std=0.02)


def start(
    source: Path, out: Path, lines: list[str] | None = None, options: ModelOptions = NOISY, dtype: str = "float32"
) -> StartRecord:
    wanted = StartOptions(CODEBOOK, options, dtype)
    return make_starting_model(
        open_language_expert(source), "named", wanted, out, lines.append if lines is not None else print
    )


@pytest.mark.slow
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
        expected = load_initial_model(source, CODEBOOK, getattr(torch, dtype), options)
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
    assert paths.initial_model == paths.start and result["vocab_size"] == TEXT_VOCAB + FINGERPRINT.codebook_size + 8
    assert main(options) == result | {"memory_growth_bytes": ANY}
    stage = StageConfig(purpose="a test's", sources={"drawings": Source()})
    check_base(paths, 1, stage, FINGERPRINT, qwen7b.SMALL["seq_length"])
    with pytest.raises(UsageError, match="a sample can have 25 tokens, but the language expert knows 24 positions"):
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
    """Files that a killed attempt left before its first record do not matter."""
    config, out = qwen7b.SMALL, tmp_path / "start"
    weights = qwen7b.random_weights(config)
    out.mkdir()
    (out / ".begun").write_text("{")
    three = start(write_folder(tmp_path / "three", config, weights, files=3), out)
    two = start(write_folder(tmp_path / "two", config, weights, files=2), out)
    assert two.base_sha256 == three.base_sha256 and len(two.files) == 2
    assert {path.name for path in out.glob("*.safetensors")} == set(two.files)


MEASURE = """
import sys
from pathlib import Path
import torch
from pipeline.weights.language_expert_formats import open_language_expert
from pipeline.runtime.process_memory import MemoryGrowth
from pipeline.weights.starting_model import StartOptions, make_starting_model

def make(source):
    expert = open_language_expert(source)
    make_starting_model(expert, "named", StartOptions(64), source / "start", lambda line: None)

small, *folders = map(Path, sys.argv[1:])
make(small)  # libraries are imported when they are first used; their memory is not the model's
for source in folders:
    largest = max(path.stat().st_size for path in source.iterdir())
    memory = MemoryGrowth()
    make(source)
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
    small = write_folder(tmp_path / "small", qwen7b.SMALL, qwen7b.random_weights(qwen7b.SMALL), "safetensors", files=1)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, [small, *folders])],
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
