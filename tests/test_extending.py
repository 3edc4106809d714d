"""Each addition of docs/extending.md works as it is written there: it is made in a copy of the packages, and used."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.checkout import CHECKOUT
from tests.support.pictures import noise_png

PACKAGES = ("cluster", "jobs", "pipeline", "tokenization")
MOST_FILES = 2
BLOCK = re.compile(r"^(New file|In) `([^`]+)`:\n\n```(?:python|diff)\n(.*?)```$", re.MULTILINE | re.DOTALL)


class Copy:
    """A copy of the packages with one section's additions."""

    def __init__(self, folder: Path, title: str) -> None:
        self.folder, self.written = folder, set[str]()
        for package in PACKAGES:
            ignored = shutil.ignore_patterns("__pycache__", "openmoji_vqgan")
            shutil.copytree(CHECKOUT / package, folder / package, ignore=ignored)
        page = (CHECKOUT / "docs/extending.md").read_text()
        (section,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
        for what, name, content in BLOCK.findall(section):
            if what == "New file":
                assert not (folder / name).exists(), name
                (folder / name).write_text(content)
            else:
                self._change(folder / name, content)
            self.written.add(name)
        assert 1 <= len(self.written) <= MOST_FILES, self.written

    @staticmethod
    def _change(path: Path, diff: str) -> None:
        for hunk in diff.split("@@\n"):
            lines = hunk.splitlines(keepends=True)
            old = "".join(line[1:] for line in lines if not line.startswith("+"))
            assert path.read_text().count(old) == 1, f"{path.name} has not, or not once:\n{old}"
            path.write_text(path.read_text().replace(old, "".join(line[1:] for line in lines)))

    def run(self, *words: str, expected: int = 0) -> str:
        """The output of Python in the copy, where its packages hide the checkout's."""
        env = os.environ | {"PYTHONPATH": f"{self.folder}{os.pathsep}{CHECKOUT}"}
        ran = subprocess.run(
            [sys.executable, *words], cwd=self.folder, env=env, capture_output=True, text=True, timeout=300
        )
        assert ran.returncode == expected, ran.stdout + ran.stderr
        return ran.stdout if not expected else ran.stdout + ran.stderr


@pytest.mark.slow
def test_a_corpus_of_a_new_format_is_detected_and_read(tmp_path: Path) -> None:
    copy = Copy(tmp_path / "copy", "A corpus format")
    (tmp_path / "corpus").mkdir()
    with zipfile.ZipFile(tmp_path / "corpus/a.zip", "w") as archive:
        archive.writestr("key.png", noise_png(1))
        archive.writestr("key.json", '{"caption": "a cat"}')
        archive.writestr("lone.json", "{}")
    program = f"""
from tokenization.config.sources import CorpusSource
from tokenization.corpora.corpus import Corpus
corpus = Corpus(CorpusSource("{tmp_path}/corpus"))
whole, lone = corpus.read("a.zip")
print(corpus.layout, corpus.shards, whole.metadata["caption"], len(whole.picture), lone.problem[0])
"""
    assert copy.run("-c", program) == f"zip ['a.zip'] a cat {len(noise_png(1))} no picture\n"
    assert "imagefolder,files,zip" in copy.run("-m", "jobs.tokenize", "--help")
    refused = copy.run("-m", "jobs.tokenize", "--layout", "rar", expected=2)
    assert "--layout 'rar' is unknown; choose one of webdataset, parquet, documents, imagefolder, files, zip" in refused


@pytest.mark.slow
def test_a_recipe_by_its_path_is_planned(tmp_path: Path) -> None:
    copy = Copy(tmp_path, "A recipe")
    words = ("-m", "jobs.train_stage", "--recipe", "my_recipe.py", "--dry-run", "--json", "--set", "stages.0.steps=100")
    plan = json.loads(copy.run(*words).splitlines()[-1])
    assert [stage["stage"] for stage in plan["stages"]] == [1]
    assert plan["recipe"] == "my_recipe" and plan["values"]["stages.0.steps"] == 100


@pytest.mark.slow
def test_a_stage_trains_on_a_new_task(tmp_path: Path) -> None:
    copy = Copy(tmp_path, "A task")
    program = """
import numpy as np
import torch
from pipeline.config.stage import StageConfig
from pipeline.config.tasks import Kind, Task
from pipeline.data.batch_plan import StagePlan
from pipeline.data.sample_order import MixedOrder
from pipeline.data.rows import Caption, Row
from pipeline.data.sample_lengths import SampleLengths
from pipeline.model.mars import MarsForCausalLM
from pipeline.training.objective import Objective
from tests.support.small_models import builder_of, small_config

class Rows:
    def span(self, start, stop): return np.array([(0, number) for number in range(start, stop)])
    def near(self, number): return [0]
    def ahead(self, shards): pass
    def lengths(self, shards, places): return SampleLengths.of_rows([self.row(0, place) for place in places])
    def row(self, shard, place):
        return Row(str(place), np.arange(16, dtype=np.uint16), None, [Caption("en", [11, 12, 13], 3)])

torch.manual_seed(0)
mars = MarsForCausalLM(small_config())
mars.freeze_language_expert()
shares = {"completion": 0.5, "captioning": 0.5}
stage = StageConfig("complete", task_shares=shares, global_batch_size=8, micro_batch_size=4, seq_len=64)
assert not stage.problems(), stage.problems()
rows = Rows()
plan = StagePlan(stage, 1, 0, MixedOrder([rows], [1.0], 8), [rows], builder_of(mars))
step = plan.step(0, 0, 1)
result = [Objective(mars)(batches) for batches in step.micro_steps]
loss = sum(one.loss for one in result)
loss.backward()
kinds = {batch.kind for batches in step.micro_steps for batch in batches}
assert Kind.COMPLETION in kinds and step.label_counts[Task.COMPLETION.value] % 8 == 0
losses = sum(one.task_losses for one in result)
assert torch.isfinite(loss) and losses[Task.COMPLETION.value] > 0
gradients = [weight.grad for weight in mars.parameters() if weight.requires_grad and weight.grad is not None]
from jobs import train_stage
override = 'stages.0.task_shares={"completion": 1.0}'
assert train_stage.main(train_stage.Options(dry_run=True, stage="1", set=(override,)))
print(bool(gradients) and all(gradient.isfinite().all() for gradient in gradients))
"""
    assert copy.run("-c", program).splitlines()[-1] == "True"


@pytest.mark.slow
def test_a_recipe_is_planned_on_a_new_gpu_type(tmp_path: Path) -> None:
    copy = Copy(tmp_path, "A GPU type")
    words = ("-m", "jobs.train_stage", "--recipe", "mars_7b", "--dry-run", "--json", "--gpu")
    plan = json.loads(copy.run(*words, "X900-192GB").splitlines()[-1])
    assert plan["device"] == "X900-192GB" and plan["gpu_days"] > 0


@pytest.mark.slow
def test_a_new_image_tokenizer_encodes_and_decodes(tmp_path: Path) -> None:
    copy = Copy(tmp_path, "An image tokenizer")
    program = """
import numpy as np
import torch
from pathlib import Path
from safetensors.torch import save_file
from tokenization.errors import InputError
from tokenization.vqgan.image_tokenizer import ImageTokenizer, check_pixel_range, image_tokenizer_sha256

folder = Path("vq")
folder.mkdir()
(folder / "config.json").write_text('{"_class_name": "PatchTokenizer"}')
patches, _ = torch.linalg.qr(torch.randn(48, 12, generator=torch.Generator().manual_seed(0)))
kernel = patches.T.reshape(12, 3, 4, 4).contiguous()
tensors = {"encoder.weight": kernel, "encoder.bias": torch.zeros(12), "decoder.weight": kernel.clone()}
tensors["decoder.bias"] = torch.zeros(3)
tensors["quantize.embedding.weight"] = torch.randn(100, 12, generator=torch.Generator().manual_seed(1)) * 0.5
save_file(tensors, folder / "model.safetensors")
tokenizer = ImageTokenizer(folder)
check_pixel_range(folder, tokenizer)
codes = np.random.default_rng(0).integers(0, 100, (2, 16))
pixels = tokenizer.decode(codes)
print(tokenizer.codebook_size, tokenizer.factor, pixels.shape, (tokenizer.encode(pixels) == codes).all())
assert len(image_tokenizer_sha256(folder)) == 64
del tensors["decoder.bias"]
save_file(tensors, folder / "model.safetensors")
try:
    ImageTokenizer(folder)
except InputError as error:
    print(error)
"""
    works, damage = copy.run("-c", program).split("\n", 1)
    assert works == "100 4 (2, 16, 16, 3) True"
    assert damage.startswith("patch tokenizer 'vq/model.safetensors' is damaged:") and "decoder.bias" in damage
