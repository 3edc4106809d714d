"""A node that sees other weights or other tokens than the driver is named, and so is one that sees none."""

import shutil
from pathlib import Path

from pipeline.preflight.finding import Verdict
from pipeline.preflight.inputs import Inputs, inputs_here, judge_inputs
from tests.support.past_run import copy_past_inputs
from tests.support.preflight import node

HEAD, WORKER = node("head", is_drivers=True), node("worker")


def inputs_of(root: Path) -> Inputs:
    run = copy_past_inputs(root)
    tokens = {"shapes": str(run / "tokens"), "pages": str(run / "corpora" / "pages" / "tokens")}
    return Inputs(run / "lm", run / "vq", tokens)


def test_copies_with_the_same_content_are_alike(tmp_path: Path) -> None:
    found = judge_inputs({HEAD: inputs_here(inputs_of(tmp_path / "a")), WORKER: inputs_here(inputs_of(tmp_path / "b"))})
    assert [finding.verdict for finding in found] == [Verdict.OK] * 4
    assert "2 shards, alike on 2 nodes" in {finding.what: finding.measured for finding in found}["tokens of shapes"]


def test_one_changed_byte_of_the_weights_is_found(tmp_path: Path) -> None:
    other = inputs_of(tmp_path / "b")
    weights = other.language_expert / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    found = judge_inputs({HEAD: inputs_here(inputs_of(tmp_path / "a")), WORKER: inputs_here(other)})
    odd = [finding for finding in found if finding.verdict]
    assert [(finding.what, finding.node) for finding in odd] == [("language expert", str(WORKER))]


def test_a_missing_shard_and_a_missing_folder_are_found(tmp_path: Path) -> None:
    other = inputs_of(tmp_path / "b")
    (Path(other.tokens["shapes"]) / "00000.parquet").unlink()
    shutil.rmtree(other.vqgan)
    found = judge_inputs({HEAD: inputs_here(inputs_of(tmp_path / "a")), WORKER: inputs_here(other)})
    odd = {finding.what: finding for finding in found if finding.verdict}
    assert odd.keys() == {"VQ-GAN", "tokens of shapes"}
    assert "No such file" in odd["VQ-GAN"].measured and all(finding.remedy for finding in odd.values())


def test_tokens_that_nobody_made_are_named_once(tmp_path: Path) -> None:
    inputs = inputs_of(tmp_path / "a")
    shutil.rmtree(inputs.tokens["pages"])
    found = judge_inputs({HEAD: inputs_here(inputs), WORKER: inputs_here(inputs)})
    odd = [finding for finding in found if finding.verdict]
    assert [finding.node for finding in odd] == [str(HEAD)] and "run jobs/tokenize.py" in odd[0].measured
