"""Bad input is refused before Ray starts, with its exit code, and leaves nothing behind."""

import re
import shutil
from importlib import import_module
from pathlib import Path

import pytest
import tyro
from diffusers import VQModel
from transformers import PreTrainedTokenizerFast

from jobs.common.exit_codes import exit_code_of
from tests.support.past_run import PAST_RUN, RECIPE

LATER_STAGE = ["train_stage", "--stage", "2", "--root", "{interrupted}"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["tokenize", "--root", "s3://bucket/runs"], 2, "s3://bucket/runs"),
        (["tokenize", "--corpus", "{empty}"], 3, "does not exist or is empty"),
        (["tokenize", "--captions", "caption"], 2, "--captions 'caption': write LANGUAGE=COLUMN"),
        (["tokenize", "--max-pixels", "-1"], 2, "--max-pixels is -1"),
        (["tokenize", "--resolution", "33"], 3, "size_px 33 is not a multiple of the VQ-GAN's factor"),
        (["tokenize", "--root", "{interrupted}"], 3, "holds tokens of another corpus"),
        (["tokenize", "--set", "tokenizers.encoder_resources.big=1"], 2, "the resource 'big'"),
        (["tokenize", "--captions", "fr=caption"], 2, "which no stage knows"),
        (["train_stage", "--root", "{empty}"], 3, "no config.json"),
        (["train_stage", "--stage", "7"], 2, "stages 1 to 2"),
        (["train_stage", "--set", "checkpoint_folder=s3://b/c", "--set", "outage_s=1800"], 2, "longer than outage_s"),
        (["generate", "--root", "{empty}"], 3, "run jobs/tokenize.py first"),
        (["serve", "--root", "{empty}"], 3, "has no stage that was trained"),
        (["serve", "--host", "0.0.0.0"], 2, "give --token-file FILE"),
        (["serve", "--token-file", "{empty}/none"], 3, "cannot be read"),
        (["serve", "--port", "70000"], 2, "--port is 70000"),
        (["serve", "--replicas", "3", "--max-replicas", "2"], 2, "--max-replicas 2 is below --replicas 3"),
        (["preflight", "--only", "gpus"], 2, "--only gpus: the subjects are nodes, versions"),
        (["preflight", "--minutes", "0"], 2, "--minutes is 0, but must be above 0"),
        (["preflight", "--stage", "7"], 2, "stages 1 to 2"),
        (["preflight", "--set", "stages.0.seq_len=20"], 2, "cannot work"),
        ([*LATER_STAGE, "--set", "stages.1.sources.shapes.where=beauty>1"], 3, "beauty"),
        ([*LATER_STAGE, "--set", "stages.1.seq_len=20"], 2, "seq_len 20"),
        ([*LATER_STAGE, "--set", "vqgan_folder={other_vqgan}"], 3, "another VQ-GAN than"),
        ([*LATER_STAGE, "--set", "stages.1.sources.shapes.where="], 3, "has no high-resolution codes"),
        (["generate", "--set", "text_tokenizer={other_text}", "--root", "{interrupted}"], 3, "another text vocab"),
    ],
)
def test_bad_input_is_refused_before_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, message: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setattr("pipeline.runtime.ray_connection.connect_to_ray", lambda: pytest.fail("Ray was started for it"))
    job = import_module(f"jobs.{words[0]}")
    flags = [*_completed(words[1:], tmp_path), "--recipe", str(RECIPE)]
    before = contents(tmp_path)
    with pytest.raises(Exception, match=re.escape(message)) as caught:
        job.main(tyro.cli(job.Options, args=flags))
    assert exit_code_of(caught.value) == code
    assert contents(tmp_path) == before, "a refused command changes nothing"


def contents(folder: Path) -> dict[Path, tuple[float, bytes]]:
    """What is in the folder, when it was written, and what it holds."""
    return {path: (path.stat().st_mtime, path.read_bytes() if path.is_file() else b"") for path in folder.rglob("*")}


def _completed(words: list[str], folder: Path) -> list[str]:
    """The words with the folders that they name in braces made, and a root."""
    folders = {name: folder / name for name in ("empty", "interrupted", "other_vqgan", "other_text")}
    for one in folders.values():
        one.mkdir()
    past = PAST_RUN / "past"
    shutil.copytree(past, folders["interrupted"] / "past", ignore=shutil.ignore_patterns("ledger"))
    vqgan = VQModel.from_pretrained(past / "vq")
    vqgan.quantize.embedding.weight.data *= 0.5
    vqgan.save_pretrained(folders["other_vqgan"])
    text = PreTrainedTokenizerFast.from_pretrained(PAST_RUN / "tokenizer")
    text.add_tokens(["<|another|>"])
    text.save_pretrained(folders["other_text"])
    words = [word.format(**folders) for word in words]
    return words if "--root" in words else [*words, "--root", str(folder)]
